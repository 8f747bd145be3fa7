/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ranks.h: jobs of ranks for tests of the whole library: processes of one or several ranks (threads), on one or several pretended
 * hosts, each with an environment of its own. No process outlives its test.
 */
#ifndef TESTS_RANKS_H
#define TESTS_RANKS_H

#include "choir.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct test_ranks {
    int ranks;
    int per_process;        /* ranks in a process, as threads; 0: one */
    int hosts;              /* processes are shared out evenly; 0: one host */
    const char *const *env; /* "NAME=VALUE" for all processes, NULL-terminated; NULL: none */
    void (*fn)(int rank, int size, void *arg);
    void *arg;
};

/* A child that dies with its parent, with `env` and knobs read anew where it is not NULL; 0 in the child. The parent must
 * have no threads: the child would hold their locks as they were, and the thread sanitizer follows no such child. */
pid_t test_fork(const char *const *env);
/* Runs the job; true if every process exits 0. After a first failure the others have 5 s. */
bool test_ranks_try(const struct test_ranks *job);
/* The same, ranks as given; fails the test with what went wrong. */
void test_ranks(int ranks, const char *const *env, void (*fn)(int rank, int size, void *arg),
                void *arg);
/* Waits for a child: its exit status, 128 + signal, or -1 after `ms` (then it is killed). */
int test_reap(pid_t pid, int ms);
/* Runs this program again, as `program --child which`, with "NAME=VALUE" of env (NULL-terminated) set: its exit status as of
 * test_reap. For what a process does once. */
int test_rerun(const char *which, const char *const *env);
void test_sleep_ms(long ms);
uint64_t test_now_ms(void);
uint64_t test_mix(uint64_t x); /* a hash, for repeatable draws */
/* Zeroed memory shared with children forked later. */
void *test_shared(size_t bytes);
bool test_long(void); /* --long or CHOIR_TEST_LONG */
/* main() of programs that take --long beside the names of cases. */
int test_long_main(int argc, char **argv);

#endif
