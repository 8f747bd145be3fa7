/* SPDX-License-Identifier: Apache-2.0 */
/* knob_parse.h: text to value and back, for one row of the table of knobs. Reads no environment. */
#ifndef BASE_KNOB_PARSE_H
#define BASE_KNOB_PARSE_H

#include "base/base.h"

enum knob_kind { KNOB_KIND_INT, KNOB_KIND_TEXT, KNOB_KIND_TIME, KNOB_KIND_SIZE };

struct knob_spec {
    const char *name, *alias;
    enum knob_kind kind;
    const char *text; /* default of a TEXT */
    int64_t fallback, min, max;
    const char *unit; /* of a bare number, where kind is TIME */
    const char *help;
};

enum knob_parsed { KNOB_PARSED, KNOB_FORM, KNOB_RANGE };
enum knob_parsed knob_parse(const struct knob_spec *spec, const char *text, int64_t *value);
void knob_format(const struct knob_spec *spec, int64_t value, char *text, size_t bytes);
const char *knob_form(const struct knob_spec *spec); /* "an integer", "a time such as 5s" ... */
/* Insertions, deletions, replacements and swaps of neighbours that turn a into b. */
int knob_distance(const char *a, const char *b);

#endif
