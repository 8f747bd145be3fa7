/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scan.h: words, numbers and marks of the text files people edit (plans, clusters). White space and
 * comments (# to the end of the line) separate. The first failure sticks: later calls do nothing, the token
 * becomes SCAN_END.
 */
#ifndef PLAN_SCAN_H
#define PLAN_SCAN_H

#include "base/base.h"

enum scan_token { SCAN_END, SCAN_WORD, SCAN_NUMBER, SCAN_MARK };
struct scan {
    enum scan_token token; /* the present one */
    const char *begin;
    uint32_t length, line, column;
    double real;    /* NUMBER: its value */
    uint64_t whole; /* NUMBER: its size, if is_whole */
    bool is_whole, minus;
    bool failed;
    char error[200]; /* "line 3, column 9: ..." */
    const char *at, *line_begin;
    uint32_t at_line;
};

void scan_start(struct scan *s, const char *text); /* goes to the first token */
void scan_next(struct scan *s);
bool scan_is(const struct scan *s, const char *text);
bool scan_take(struct scan *s, const char *text); /* if it is there */
void scan_expect(struct scan *s, const char *text);
/* Numbers; `what` names them in errors. */
uint64_t scan_whole(struct scan *s, const char *what, uint64_t least, uint64_t most);
uint32_t scan_u32(struct scan *s, const char *what, uint32_t least);
int32_t scan_i32(struct scan *s, const char *what);
double scan_real(struct scan *s, const char *what, double least);
/* Copies the present word, goes on. */
void scan_word(struct scan *s, const char *what, char *text, size_t bytes);
void scan_fail(struct scan *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
void scan_expected(struct scan *s, const char *what); /* "expected what, found ..." */
/* CHOIR_OK, or the thread's record filled: "FILE: line ..." */
enum choir_status scan_status(const struct scan *s, const char *what, const char *remedy);

#endif
