/* SPDX-License-Identifier: Apache-2.0 */
/*
 * base.h: the small things every module uses: errors, log, clock, hash, containers of bits.
 * Knows nothing of ranks, plans or transports.
 */
#ifndef BASE_BASE_H
#define BASE_BASE_H

#include "choir.h"
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BASE_LINE 64 /* bytes of a cache line */
#define base_count(a) (sizeof(a) / sizeof((a)[0]))
#define base_likely(x) __builtin_expect(!!(x), 1)
#define base_unlikely(x) __builtin_expect(!!(x), 0)
#define base_min(a, b) ((a) < (b) ? (a) : (b))
#define base_max(a, b) ((a) > (b) ? (a) : (b))

/* A broken invariant of the library itself; stays on in release builds. */
#define choir_assert(x) (base_likely(x) ? (void)0 : base_assert_failed(#x, __FILE__, __LINE__))
_Noreturn void base_assert_failed(const char *what, const char *file, int line);

/* --- clock -------------------------------------------------------------------------------- */
uint64_t base_now_ns(void); /* CLOCK_MONOTONIC */
static inline void base_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#endif
}

/* --- hash and random ---------------------------------------------------------------------- */
uint64_t base_hash(const void *data, size_t bytes, uint64_t seed);
static inline uint64_t base_mix(uint64_t x)
{
    x ^= x >> 30, x *= 0xbf58476d1ce4e5b9u, x ^= x >> 27, x *= 0x94d049bb133111ebu;
    return x ^ x >> 31;
}
static inline uint64_t base_random(uint64_t *state) /* splitmix64, for tests and sampling */
{
    return base_mix(*state += 0x9e3779b97f4a7c15u);
}

/* --- log: one line, lower case, "key value"; stderr or CHOIR_LOG_FILE; level CHOIR_LOG ------ */
enum base_level { BASE_ERROR, BASE_WARN, BASE_INFO, BASE_DEBUG };
extern _Atomic int base_log_level;                    /* lines above it are not formatted */
void base_log_init(void);                             /* idempotent; reads the knobs */
int base_log_parse(const char *name);                 /* a level's name, NCCL's too; -1: unknown */
void base_log_configure(int level, const char *path); /* knob.c calls it; path "": stderr */
void base_log_write(enum base_level level, int rank, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
#define base_log(level, rank, ...)                                                                 \
    ((int)(level) <= atomic_load_explicit(&base_log_level, memory_order_relaxed)                   \
         ? base_log_write(level, rank, __VA_ARGS__)                                                \
         : (void)0)

/* --- errors --------------------------------------------------------------------------------
 * First detector fills and logs; others return the status. Where there is no communicator the record is
 * the calling thread's. */
struct base_error_at {
    int rank, peer;
    uint64_t sequence;
    int sys_errno;
    const char *transport; /* or NULL */
};
/* Fills `error` (never NULL) and logs it, an error that damages the call only at info, not-supported at debug;
 * returns status. `text` is a printf format; %m is not expanded: pass sys_errno. */
enum choir_status base_error_fill(struct choir_error *error, enum choir_status status,
                                  const struct base_error_at *at, const char *remedy,
                                  const char *text, ...) __attribute__((format(printf, 5, 6)));
struct choir_error *base_error_thread(void); /* this thread's record */
/* Logs this thread's record at error level, unless it was: for what the program's user caused, not its author. */
void base_error_say(void);
/* base_fail(status, "remedy", "text", ...): fills the thread's record, returns status. */
#define base_fail(status, remedy, ...)                                                             \
    base_error_fill(base_error_thread(), status, &(struct base_error_at){-1, -1, 0, 0, NULL},      \
                    remedy, __VA_ARGS__)

#endif
