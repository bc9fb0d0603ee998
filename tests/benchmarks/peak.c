/* The peak of a core: 8-bit products in registers, with no loads or stores. */
#include <stdint.h>
#if defined(__AVX512F__) && defined(__AVX512VNNI__)
#include <immintrin.h>
#define EACH(DO) \
    DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13) DO(14) DO(15) DO(16) DO(17) \
    DO(18) DO(19) DO(20) DO(21) DO(22) DO(23)
#define BEGIN(i) __m512i sum##i = _mm512_set1_epi32(i);
#define STEP(i) __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(sum##i) : "v"(a), "v"(b));
#define END(i) total = _mm512_add_epi32(total, sum##i);
/* Return the number of operations done; a multiplication and an addition count as two. Without AVX-512 VNNI: 0. */
int64_t peak(int64_t rounds, int32_t *out) {
    __m512i a = _mm512_set1_epi8((char)rounds), b = _mm512_set1_epi8(3), total = a;
    EACH(BEGIN)
    for (int64_t round = 0; round < rounds; round++) { EACH(STEP) }
    EACH(END)
    _mm512_storeu_si512(out, total);
    return rounds * 24 * 64 * 2;
}
#else
int64_t peak(int64_t rounds, int32_t *out) {
    *out = (int32_t)rounds;
    return 0;
}
#endif
