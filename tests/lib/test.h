/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test.h: the harness. A test is one program: exit 0 passed, 1 failed, 77 all of it skipped (reasons printed).
 * main() is TEST_MAIN(list of TEST(name)); arguments pick cases by name; every program has a 60 s deadline unless
 * it calls test_deadline().
 */
#ifndef TESTS_TEST_H
#define TESTS_TEST_H

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
#define TEST_TSAN 1
#else
#define TEST_TSAN 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define TEST_ASAN 1
#else
#define TEST_ASAN 0
#endif
#define TEST_SANITIZED (TEST_TSAN || TEST_ASAN) /* several times slower */

void test_deadline(unsigned seconds); /* from now on */
void test_fail_at(const char *file, int line, const char *format, ...)
    __attribute__((noreturn, format(printf, 3, 4)));
/* Ends the case, or goes on without a part of it; both named. */
void test_skip(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
void test_skip_part(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Path of a file in a directory of this test's own (under TMPDIR or /tmp), which ends with the test; "" names it. */
void test_path(char *path, size_t bytes, const char *name);
int test_open_files(void); /* descriptors of this process, and some that are always there */
/* How much to try: 0 CHOIR_TEST_SHORT (sanitizers in CI), 1, 2 CHOIR_TEST_LONG (make test-long, faults in CI). */
int test_effort(void);
/* CHOIR_TEST_TOOL: how many times slower the tool is that this program runs under, which may have threads of its own; else 1. */
unsigned test_slowness(void);
#define TEST_BY_EFFORT(brief, usual, thorough)                                                     \
    (((const int[]){brief, usual, thorough})[test_effort()])
uint64_t test_seed(void); /* CHOIR_TEST_SEED or fresh; printed on failure */

#define FAIL(...) test_fail_at(__FILE__, __LINE__, __VA_ARGS__)
#define CHECK(x) ((x) ? (void)0 : FAIL("%s is false", #x))
#define CHECK_OP(a, op, b)                                                                         \
    do {                                                                                           \
        int64_t check_a = (int64_t)(a), check_b = (int64_t)(b);                                    \
        if (!(check_a op check_b))                                                                 \
            FAIL("%s %s %s: %" PRId64 " and %" PRId64, #a, #op, #b, check_a, check_b);             \
    } while (0)
#define CHECK_EQ(a, b) CHECK_OP(a, ==, b)
#define CHECK_NE(a, b) CHECK_OP(a, !=, b)
#define CHECK_LT(a, b) CHECK_OP(a, <, b)
#define CHECK_LE(a, b) CHECK_OP(a, <=, b)
#define CHECK_STR(a, b)                                                                            \
    do {                                                                                           \
        const char *check_a = (a), *check_b = (b);                                                 \
        if (strcmp(check_a, check_b))                                                              \
            FAIL("%s is \"%s\", not \"%s\"", #a, check_a, check_b);                                \
    } while (0)
/* A call that must succeed; prints the status' name and the record of the thread. */
#define CHECK_OK(call) test_check_ok((int)(call), #call, __FILE__, __LINE__)
void test_check_ok(int status, const char *what, const char *file, int line);

struct test_case {
    const char *name;
    void (*fn)(void);
};
int test_main(int argc, char **argv, const struct test_case *cases, size_t count);
#define TEST_MAIN(...)                                                                             \
    int main(int argc, char **argv)                                                                \
    {                                                                                              \
        static const struct test_case cases[] = {__VA_ARGS__};                                     \
        return test_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));                     \
    }
#define TEST(fn)                                                                                   \
    {                                                                                              \
#fn, fn                                                                                    \
    }

/* Runs fn(rank, size, arg) for `size` ranks, as threads of this process or as processes (ranks.h has more of these); fails
 * if one fails. Processes start from one without threads: their ids come from test_id. */
void test_threads(int size, void (*fn)(int rank, int size, void *arg), void *arg);
void test_processes(int size, void (*fn)(int rank, int size, void *arg), void *arg);
struct choir_id;
/* An id whose rendezvous runs in a process beside this one, the same for all ids of the program; its pid. */
int test_id(struct choir_id *id);
void test_id_end(void); /* test_main calls it: fails if that process did */

#endif
