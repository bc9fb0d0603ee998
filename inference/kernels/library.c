/* The library's face: which forms of the kernels it holds, and which of them this machine can run.
 *
 * This file is compiled for any processor of the architecture, and so is every form's table: asking what runs executes
 * nothing that might not.
 */
#include <string.h>

#include "form.h"
#include "int8.h"
#include "wordpiece.h"

/* FORMS, from `build.py`: FORM(name) for each form in the library, the fastest first. */
#define FORM(name) extern const struct form earlybell_form_##name;
FORMS
#undef FORM
#define FORM(name) &earlybell_form_##name,
static const struct form *const forms[] = {FORMS};
#undef FORM

/* SOURCES, from `build.py`: a hash over the sources, by which `library.py` knows a library that is older than they. */
const char earlybell_sources[] = SOURCES;

#if defined(__x86_64__)

#include <cpuid.h>

/* The processor's registers that the system saves when it switches threads. */
static uint64_t saved_registers(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static int64_t features(void) {
    enum { OSXSAVE = 1 << 27, FMA = 1 << 12, YMM = 0x06, ZMM = 0xe6 };
    uint32_t a, b, c, d, basic;
    int64_t found = 0;
    if (!__get_cpuid(1, &a, &b, &basic, &d) || !(basic & OSXSAVE)) return 0;
    const uint64_t saved = saved_registers();
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    const uint32_t subleaves = a;
    if ((saved & YMM) != YMM || !(basic & FMA) || !(b >> 5 & 1)) return 0;
    found |= AVX2;
    if ((saved & ZMM) == ZMM && b >> 16 & b >> 30 & 1) {
        found |= AVX512;
        if (c >> 11 & 1) found |= AVX512_VNNI;
    }
    if (subleaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && a >> 4 & 1) found |= AVX_VNNI;
    return found;
}

#elif defined(__aarch64__) && defined(__APPLE__)

#include <sys/sysctl.h>

static int has(const char *name) {
    int value = 0;
    size_t size = sizeof value;
    return !sysctlbyname(name, &value, &size, 0, 0) && value;
}

static int64_t features(void) {
    return (has("hw.optional.arm.FEAT_DotProd") ? DOTPROD : 0) | (has("hw.optional.arm.FEAT_I8MM") ? I8MM : 0);
}

#elif defined(__aarch64__) && defined(__linux__)

#include <sys/auxv.h>

static int64_t features(void) {
    enum { HAS_ASIMDDP = 1 << 20, HAS_I8MM = 1 << 13 };
    return (getauxval(AT_HWCAP) & HAS_ASIMDDP ? DOTPROD : 0) | (getauxval(AT_HWCAP2) & HAS_I8MM ? I8MM : 0);
}

#else

static int64_t features(void) { return 0; }

#endif

/* The form at this place, from 0 for the fastest, and whether this machine can run it; NULL after the last. */
const struct form *earlybell_form(int64_t place, int32_t *runs) {
    if (place < 0 || place >= (int64_t)(sizeof forms / sizeof *forms)) return 0;
    *runs = !(forms[place]->needs & ~features());
    return forms[place];
}

/* The sizes of the structures that cross from Python, and the constants it uses, in the order of `structs.py`. */
void earlybell_layout(int64_t *layout) {
    const int64_t values[] = {
        sizeof(struct linear),       sizeof(struct norm),  sizeof(struct layer), sizeof(struct embedding),
        sizeof(struct head),         sizeof(struct exit),  sizeof(struct exit_rule),
        sizeof(struct window_state), sizeof(struct model), sizeof(struct batch), sizeof(struct workspace),
        sizeof(struct tokenizer),   sizeof(struct form),  LANES, PANEL, STRIP, TERMS, EXIT_TEXTS,
        GROUP,                       GROUP_LIMIT,
    };
    memcpy(layout, values, sizeof values);
}
