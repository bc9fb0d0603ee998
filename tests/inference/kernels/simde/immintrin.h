/* Stands in for <immintrin.h> so that the AVX-512 forms run on processors without AVX-512, by SIMDe's emulation. */
#pragma once
#include_next <immintrin.h>
#include <simde/x86/avx512.h>

/* What SIMDe 0.7 does not have. */
static inline simde__m512i emulated_cvtps_epi32(simde__m512 v) {
    simde__m512_private from = simde__m512_to_private(v);
    simde__m512i_private to;
    for (int i = 0; i < 2; i++) to.m256i[i] = _mm256_cvtps_epi32(from.m256[i]);
    return simde__m512i_from_private(to);
}

static inline simde__m512 emulated_cvtepi32_ps(simde__m512i v) {
    simde__m512i_private from = simde__m512i_to_private(v);
    simde__m512_private to;
    for (int i = 0; i < 2; i++) to.m256[i] = _mm256_cvtepi32_ps(from.m256i[i]);
    return simde__m512_from_private(to);
}

static inline __m128i emulated_cvtusepi32_epi8(simde__m512i v) {
    simde__m512i_private from = simde__m512i_to_private(v);
    unsigned char bytes[16];
    for (int i = 0; i < 16; i++) bytes[i] = from.u32[i] > 255 ? 255 : (unsigned char)from.u32[i];
    return _mm_loadu_si128((const __m128i *)bytes);
}

#define __m512 simde__m512
#define __m512i simde__m512i
#define __m512d simde__m512d
#define PIN(value) /* in the header that is tested: a structure fits no register */
#undef _mm512_add_epi16
#define _mm512_add_epi16 simde_mm512_add_epi16
#undef _mm512_add_epi32
#define _mm512_add_epi32 simde_mm512_add_epi32
#undef _mm512_add_ps
#define _mm512_add_ps simde_mm512_add_ps
#undef _mm512_castpd_ps
#define _mm512_castpd_ps simde_mm512_castpd_ps
#undef _mm512_castps512_ps256
#define _mm512_castps512_ps256 simde_mm512_castps512_ps256
#undef _mm512_castps_pd
#define _mm512_castps_pd simde_mm512_castps_pd
#undef _mm512_castps_si512
#define _mm512_castps_si512 simde_mm512_castps_si512
#undef _mm512_castsi512_ps
#define _mm512_castsi512_ps simde_mm512_castsi512_ps
#undef _mm512_cvtepi32_ps
#define _mm512_cvtepi32_ps emulated_cvtepi32_ps
#undef _mm512_cvtps_epi32
#define _mm512_cvtps_epi32 emulated_cvtps_epi32
#undef _mm512_cvtusepi32_epi8
#define _mm512_cvtusepi32_epi8 emulated_cvtusepi32_epi8
#undef _mm512_div_ps
#define _mm512_div_ps simde_mm512_div_ps
#undef _mm512_dpbusd_epi32
#define _mm512_dpbusd_epi32 simde_mm512_dpbusd_epi32
#undef _mm512_extractf64x4_pd
#define _mm512_extractf64x4_pd simde_mm512_extractf64x4_pd
#undef _mm512_fmadd_ps
#define _mm512_fmadd_ps simde_mm512_fmadd_ps
#undef _mm512_loadu_ps
#define _mm512_loadu_ps simde_mm512_loadu_ps
#undef _mm512_loadu_si512
#define _mm512_loadu_si512 simde_mm512_loadu_si512
#undef _mm512_madd_epi16
#define _mm512_madd_epi16 simde_mm512_madd_epi16
#undef _mm512_maddubs_epi16
#define _mm512_maddubs_epi16 simde_mm512_maddubs_epi16
#undef _mm512_max_epi32
#define _mm512_max_epi32 simde_mm512_max_epi32
#undef _mm512_max_ps
#define _mm512_max_ps simde_mm512_max_ps
#undef _mm512_min_ps
#define _mm512_min_ps simde_mm512_min_ps
#undef _mm512_mul_ps
#define _mm512_mul_ps simde_mm512_mul_ps
#undef _mm512_mullo_epi32
#define _mm512_mullo_epi32 simde_mm512_mullo_epi32
#undef _mm512_set1_epi16
#define _mm512_set1_epi16 simde_mm512_set1_epi16
#undef _mm512_set1_epi32
#define _mm512_set1_epi32 simde_mm512_set1_epi32
#undef _mm512_set1_ps
#define _mm512_set1_ps simde_mm512_set1_ps
#undef _mm512_setzero_ps
#define _mm512_setzero_ps simde_mm512_setzero_ps
#undef _mm512_setzero_si512
#define _mm512_setzero_si512 simde_mm512_setzero_si512
#undef _mm512_shuffle_f32x4
#define _mm512_shuffle_f32x4 simde_mm512_shuffle_f32x4
#undef _mm512_slli_epi32
#define _mm512_slli_epi32 simde_mm512_slli_epi32
#undef _mm512_storeu_ps
#define _mm512_storeu_ps simde_mm512_storeu_ps
#undef _mm512_sub_epi32
#define _mm512_sub_epi32 simde_mm512_sub_epi32
#undef _mm512_sub_ps
#define _mm512_sub_ps simde_mm512_sub_ps
#undef _mm512_unpackhi_pd
#define _mm512_unpackhi_pd simde_mm512_unpackhi_pd
#undef _mm512_unpackhi_ps
#define _mm512_unpackhi_ps simde_mm512_unpackhi_ps
#undef _mm512_unpacklo_pd
#define _mm512_unpacklo_pd simde_mm512_unpacklo_pd
#undef _mm512_unpacklo_ps
#define _mm512_unpacklo_ps simde_mm512_unpacklo_ps
