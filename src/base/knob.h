/* SPDX-License-Identifier: Apache-2.0 */
/*
 * knob.h: the environment variables, one table (src/base/knobs.def). A row yields parsing, range errors,
 * `choir-info --knobs`, the docs page and the warning for an unknown CHOIR_*.
 */
#ifndef BASE_KNOB_H
#define BASE_KNOB_H

#include "base/base.h"

/* KNOB_INT(id, "NAME", "ALIAS" or NULL, default, min, max, "unit", "help")
 * KNOB_TEXT(id, "NAME", "ALIAS" or NULL, "default", "help")
 * KNOB_TIME(id, ... default in ns; the text takes 10, 10s, 5m, 100ms, 3us)
 * KNOB_SIZE(id, ... bytes; the text takes 64K, 1M) */
enum knob_id {
#define KNOB_INT(id, ...) KNOB_##id,
#define KNOB_TEXT(id, ...) KNOB_##id,
#define KNOB_TIME(id, ...) KNOB_##id,
#define KNOB_SIZE(id, ...) KNOB_##id,
#include "base/knobs.def"
#undef KNOB_INT
#undef KNOB_TEXT
#undef KNOB_TIME
#undef KNOB_SIZE
    KNOB_COUNT
};

/* Reads the environment once (idempotent). A value out of range is an error: the record names the variable,
 * its value, the range. Every choir_comm_create and choir_id_create calls it first. */
enum choir_status knob_load(void);
void knob_reload(void);            /* tests only: reads the environment again */
int64_t knob_int(enum knob_id id); /* INT, TIME (ns), SIZE (bytes) */
const char *knob_text(enum knob_id id);
bool knob_is_set(enum knob_id id); /* by the environment */

struct knob_row {
    const char *name, *alias, *kind, *fallback, *range, *unit, *help;
};
const struct knob_row *knob_row(enum knob_id id);
/* The present value as text, and where it comes from: "default", "CHOIR_X", "NCCL_X". */
void knob_show(enum knob_id id, char *value, size_t bytes, const char **source);

#endif
