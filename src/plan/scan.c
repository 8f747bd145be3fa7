/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scan.c: tokens of hand-edited text, with places for messages. Independent of the locale.
 */
#include "plan/scan.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

void scan_start(struct scan *s, const char *text)
{
    *s = (struct scan){.at = text, .line_begin = text, .at_line = 1};
    scan_next(s);
}

void scan_fail(struct scan *s, const char *format, ...)
{
    if (s->failed)
        return;
    va_list ap;
    va_start(ap, format);
    int n = snprintf(s->error, sizeof(s->error), "line %u, column %u: ", s->line, s->column);
    vsnprintf(s->error + n, sizeof(s->error) - (size_t)n, format, ap);
    va_end(ap);
    s->failed = true;
    s->token = SCAN_END;
    s->length = 0;
}

static void skip_space(struct scan *s)
{
    for (;; s->at++) {
        if (*s->at == '#')
            while (*s->at && *s->at != '\n')
                s->at++;
        if (*s->at == '\n') {
            s->at_line++;
            s->line_begin = s->at + 1;
        } else if (*s->at != ' ' && *s->at != '\t' && *s->at != '\r') {
            return;
        }
    }
}

/* At a digit. The exponent counts only if digits follow it. */
static void read_number(struct scan *s)
{
    const char *p = s->at;
    double real = 0;
    uint64_t whole = 0;
    bool fits = true;
    for (; is_digit(*p); p++) {
        uint64_t d = (uint64_t)(*p - '0');
        fits &= whole <= (UINT64_MAX - d) / 10;
        whole = whole * 10 + d;
        real = real * 10 + (double)d;
    }
    s->is_whole = fits;
    if (*p == '.' && is_digit(p[1])) {
        s->is_whole = false;
        double unit = 1;
        for (p++; is_digit(*p); p++)
            real += (unit /= 10) * (*p - '0');
    }
    bool sign = (*p == 'e' || *p == 'E') && (p[1] == '-' || p[1] == '+');
    if ((*p == 'e' || *p == 'E') && is_digit(p[1 + sign])) {
        bool down = p[1] == '-';
        int e = 0;
        s->is_whole = false;
        for (p += 1 + sign; is_digit(*p); p++)
            e = e < 1000 ? e * 10 + (*p - '0') : e;
        real *= pow(10, down ? -e : e);
    }
    s->real = s->minus ? -real : real;
    s->whole = whole;
    s->at = p;
}

void scan_next(struct scan *s)
{
    if (s->failed)
        return;
    skip_space(s);
    s->begin = s->at;
    s->line = s->at_line;
    s->column = (uint32_t)(s->at - s->line_begin) + 1;
    char c = *s->at;
    s->minus = c == '-' && is_digit(s->at[1]);
    if (!c) {
        s->token = SCAN_END;
    } else if (is_digit(c) || s->minus) {
        s->token = SCAN_NUMBER;
        s->at += s->minus;
        read_number(s);
    } else if (is_letter(c)) {
        s->token = SCAN_WORD;
        while (is_letter(*s->at) || is_digit(*s->at))
            s->at++;
    } else {
        s->token = SCAN_MARK;
        s->at += c == '-' && s->at[1] == '>' ? 2 : 1;
    }
    s->length = (uint32_t)(s->at - s->begin);
}

bool scan_is(const struct scan *s, const char *text)
{
    return s->token != SCAN_END && strlen(text) == s->length && !memcmp(s->begin, text, s->length);
}

bool scan_take(struct scan *s, const char *text)
{
    bool there = scan_is(s, text);
    if (there)
        scan_next(s);
    return there;
}

/* What stands here, for messages: never a control character of a garbage file. */
static void found(const struct scan *s, char text[40])
{
    if (s->token == SCAN_END) {
        snprintf(text, 40, "the end");
        return;
    }
    size_t n = 0;
    text[n++] = '"';
    for (uint32_t i = 0; i < s->length && n < 34; i++)
        text[n++] = s->begin[i] >= ' ' && s->begin[i] <= '~' ? s->begin[i] : '?';
    text[n++] = '"';
    text[n] = 0;
}

void scan_expected(struct scan *s, const char *what)
{
    char text[40];
    found(s, text);
    scan_fail(s, "expected %s, found %s", what, text);
}

void scan_expect(struct scan *s, const char *text)
{
    char quoted[40];
    if (scan_take(s, text))
        return;
    snprintf(quoted, sizeof(quoted), "\"%s\"", text);
    scan_expected(s, quoted);
}

uint64_t scan_whole(struct scan *s, const char *what, uint64_t least, uint64_t most)
{
    if (s->token != SCAN_NUMBER) {
        scan_expected(s, what);
        return least;
    }
    if (!s->is_whole || s->minus || s->whole < least || s->whole > most) {
        scan_fail(s, "%s is %.*s, not a whole number from %llu to %llu", what,
                  (int)base_min(s->length, 30u), s->begin, (unsigned long long)least,
                  (unsigned long long)most);
        return least;
    }
    uint64_t v = s->whole;
    scan_next(s);
    return v;
}

uint32_t scan_u32(struct scan *s, const char *what, uint32_t least)
{
    return (uint32_t)scan_whole(s, what, least, UINT32_MAX);
}

int32_t scan_i32(struct scan *s, const char *what)
{
    if (s->token != SCAN_NUMBER) {
        scan_expected(s, what);
        return 0;
    }
    if (!s->is_whole || s->whole > (uint64_t)INT32_MAX) {
        scan_fail(s, "%s is %.*s, not a whole number of 32 bits", what,
                  (int)base_min(s->length, 30u), s->begin);
        return 0;
    }
    int32_t v = s->minus ? -(int32_t)s->whole : (int32_t)s->whole;
    scan_next(s);
    return v;
}

double scan_real(struct scan *s, const char *what, double least)
{
    if (s->token != SCAN_NUMBER) {
        scan_expected(s, what);
        return least;
    }
    if (!(s->real >= least) || !isfinite(s->real)) {
        scan_fail(s, "%s is %.*s, not a number from %g", what, (int)base_min(s->length, 30u),
                  s->begin, least);
        return least;
    }
    double v = s->real;
    scan_next(s);
    return v;
}

void scan_word(struct scan *s, const char *what, char *text, size_t bytes)
{
    text[0] = 0;
    if (s->token != SCAN_WORD) {
        scan_expected(s, what);
    } else if (s->length >= bytes) {
        scan_fail(s, "%s is longer than %zu characters", what, bytes - 1);
    } else {
        memcpy(text, s->begin, s->length);
        text[s->length] = 0;
        scan_next(s);
    }
}

enum choir_status scan_status(const struct scan *s, const char *what, const char *remedy)
{
    if (!s->failed)
        return CHOIR_OK;
    return base_fail(CHOIR_ERR_ARGUMENT, remedy, "%s: %s", what, s->error);
}
