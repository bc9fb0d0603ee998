/* What the library reports about itself when it is loaded. */
#include "int8.h"
#include "simd.h"
#include "wordpiece.h"

/* The form of `simd.h` that was compiled in. */
const char *earlybell_form(void) { return FORM; }

/* The sizes of the structures that cross from Python, and the constants it uses, in the order of `structs.py`. */
void earlybell_layout(int64_t *layout) {
    const int64_t values[] = {
        sizeof(struct linear),       sizeof(struct norm),  sizeof(struct layer), sizeof(struct embedding),
        sizeof(struct head),         sizeof(struct exit),  sizeof(struct exit_rule),
        sizeof(struct window_state), sizeof(struct model), sizeof(struct batch), sizeof(struct workspace),
        sizeof(struct vocabulary),   LANES, PANEL, STRIP, TERMS, EXIT_TEXTS,
    };
    memcpy(layout, values, sizeof values);
}
