/* SPDX-License-Identifier: Apache-2.0 */
/* fake.h: tests of GPUs on the driver of tests/fake_cuda, which runs kernels on CPU threads. */
#ifndef TESTS_FAKE_H
#define TESTS_FAKE_H

/* Becomes the program of this name beside this one, with the fake driver in its way; 77 where that was not built. */
int test_fake_exec(const char *name, char **argv);

#endif
