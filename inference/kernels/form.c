/* One form of the kernels, complete. `build.py` compiles this file once per form, with the compiler's flags for it.
 *
 * It is one translation unit, in which each file calls only those above it, and nothing but the table at the end can be
 * seen from outside: no function compiled for one processor can be linked into the form for another.
 *
 * FORM         the form's name
 * FORM_HEADER  the file that makes it (see `simd.h`)
 */
#include "simd.h"

#include "attention.c"
#include "layer.c"
#include "exit_heads.c"
#include "forward.c"

#include "form.h"

#define TEXT_OF(name) #name
#define NAME(name) TEXT_OF(name)
#define TABLE_OF(name) earlybell_form_##name
#define TABLE(name) TABLE_OF(name)

const struct form TABLE(FORM) = {
    NAME(FORM),
    NEEDS,
    earlybell_forward,
    earlybell_embed,
    earlybell_layer,
    earlybell_exit,
    earlybell_softmax,
    earlybell_decide,
    earlybell_compact,
};
