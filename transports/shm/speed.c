/* SPDX-License-Identifier: Apache-2.0 */
/*
 * speed.c: whether reading a peer's memory (process_vm_readv: one copy, by the kernel, which pins every page) beats two
 * copies through mapped memory, which cost more than twice a memcpy, as their bytes travel from cache to cache. It depends on
 * the processor and the kernel: 256 KiB took 3.5 times a memcpy on an EPYC 9004 guest, where copies are faster at every
 * size, and 1.9 times on a Xeon guest of 32 cores, where reading is from 32 KiB on. The line is drawn between. Measured once per
 * process, on memory of its own, in about 0.2 ms.
 */
#include "base/knob.h"
#include "shm.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define SAMPLE_BYTES ((size_t)256 << 10)
#define SAMPLES 4

static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool fast;

static void measure(void)
{
    unsigned char *memory = malloc(2 * SAMPLE_BYTES);
    if (!memory)
        return;
    unsigned char *to = memory + SAMPLE_BYTES;
    uint64_t best[2] = {UINT64_MAX, UINT64_MAX};
    memset(memory, 1, 2 * SAMPLE_BYTES);
    for (int i = 0; i < SAMPLES; i++) {
        struct iovec mine = {to, SAMPLE_BYTES}, theirs = {memory, SAMPLE_BYTES};
        uint64_t start = base_now_ns();
        bool whole = process_vm_readv(getpid(), &mine, 1, &theirs, 1, 0) == (ssize_t)SAMPLE_BYTES;
        uint64_t read = base_now_ns();
        memcpy(to, memory, SAMPLE_BYTES);
        /* The copy must be made, though nobody looks at it. */
        __asm__ volatile("" : : "r"(to) : "memory");
        uint64_t end = base_now_ns();
        if (whole)
            best[0] = base_min(best[0], read - start);
        best[1] = base_min(best[1], end - read);
    }
    free(memory);
    fast = 2 * best[0] < 5 * best[1];
    base_log(BASE_DEBUG, -1, "shm: 256 KiB read in %llu ns, copied in %llu",
             (unsigned long long)best[0], (unsigned long long)best[1]);
}

bool shm_reads_fast(void)
{
    if (knob_int(KNOB_SINGLE_COPY) != 1)
        return knob_int(KNOB_SINGLE_COPY) == 2;
    pthread_once(&once, measure);
    return fast;
}
