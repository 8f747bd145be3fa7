/* SPDX-License-Identifier: Apache-2.0 */
/*
 * program.h: running the built programs from tests, bounded in time.
 */
#ifndef TESTS_PROGRAM_H
#define TESTS_PROGRAM_H

#include "tests/lib/test.h"
#include <stddef.h>

/* Runs "<directory of programs>/name arguments" by the shell; its output (both streams), cut to bytes-1, in `output`. Returns
 * the exit status, 128 + signal, or 124 after `seconds`. Skips the test where the program was not built. */
int test_program(unsigned seconds, char *output, size_t bytes, const char *name,
                 const char *arguments, ...) __attribute__((format(printf, 5, 6)));
/* The same of any command of the shell. */
int test_command(unsigned seconds, char *output, size_t bytes, const char *command);
/* How often `part` stands in an output, and the check of it, which shows the output. */
int test_times(const char *output, const char *part);
#define CHECK_TIMES(output, count, part)                                                           \
    do {                                                                                           \
        if (test_times(output, part) != (count))                                                   \
            FAIL("expected %d times \"%s\" in:\n%s", count, part, output);                         \
    } while (0)
/* Path of a built program; skips the test where it does not exist. */
const char *test_program_path(const char *name);

#endif
