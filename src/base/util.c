/* SPDX-License-Identifier: Apache-2.0 */
/* util.c: the clock, the hash, and the end of a process whose invariant broke. */
#include "base/base.h"
#include <endian.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

uint64_t base_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The high and low half of a 128-bit product, folded: every input bit reaches about half of the result's. */
static uint64_t fold(uint64_t a, uint64_t b)
{
    unsigned __int128 p = (unsigned __int128)a * b;
    return (uint64_t)p ^ (uint64_t)(p >> 64);
}

/* Odd constants from the fractions of sqrt 2, sqrt 3 and sqrt 5. Not meant to stand against an attacker. Equal on
 * all processes of a job (they compare hashes), hence the fixed byte order. */
uint64_t base_hash(const void *data, size_t bytes, uint64_t seed)
{
    static const uint64_t c0 = 0x6a09e667f3bcc909u, c1 = 0xbb67ae8584caa73bu,
                          c2 = 0x3c6ef372fe94f82bu;
    const unsigned char *p = data;
    uint64_t h = base_mix(seed ^ c0) ^ (uint64_t)bytes * c1, w[2];
    size_t left = bytes;
    for (; left >= 16; left -= 16, p += 16) {
        memcpy(w, p, 16);
        h = fold(le64toh(w[0]) ^ h ^ c1, le64toh(w[1]) ^ c2) + (h << 29 | h >> 35);
    }
    w[0] = w[1] = 0;
    if (left)
        memcpy(w, p, left);
    h = fold(le64toh(w[0]) ^ h ^ c1, le64toh(w[1]) ^ c2) + (h << 29 | h >> 35);
    return base_mix(h);
}

void base_assert_failed(const char *what, const char *file, int line)
{
    base_log_write(BASE_ERROR, -1, "assertion %s failed at %s:%d; this is a bug of choir", what,
                   file, line);
    abort();
}
