/* SPDX-License-Identifier: Apache-2.0 */
/*
 * program.h: running the built programs from tests, bounded in time.
 */
#ifndef TESTS_PROGRAM_H
#define TESTS_PROGRAM_H

#include <stddef.h>

/* Runs "<directory of programs>/name arguments" by the shell; its output (both streams), cut to bytes-1, in `output`. Returns
 * the exit status, 128 + signal, or 124 after `seconds`. Skips the test where the program was not built. */
int test_program(unsigned seconds, char *output, size_t bytes, const char *name,
                 const char *arguments, ...) __attribute__((format(printf, 5, 6)));
/* The same of any command of the shell. */
int test_command(unsigned seconds, char *output, size_t bytes, const char *command);
/* Path of a built program; skips the test where it does not exist. */
const char *test_program_path(const char *name);

#endif
