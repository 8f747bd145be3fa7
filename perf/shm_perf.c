/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm_perf.c: what two cores can do with each other's memory, for reading the figures of perf/NOTES.md. Two processes,
 * pinned to CPU 0 and 1 (or to those given), move bytes both ways at once: no library, no protocol but a barrier.
 *
 *   hop         a word from one to the other, ns one way. A guest whose two CPUs share a cache on one minute and not on the
 *               next shows it here: 30 and 165 ns on the same machine; compare nothing measured across the two.
 *   copy        memcpy within the process
 *   read        the other's memory, by process_vm_readv
 *   slots       the other's memory, through a shared ring of 256 KiB, 64 KiB at a time, both copies
 *   wide        the same with a ring of 2 MiB
 *   rewrite     read, then write what the other has read: what an exchange in place does
 */
#include "base/base.h"
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST ((size_t)8 << 20)
#define SLOT ((size_t)64 << 10)
#define RING ((size_t)2 << 20)
#define ROUNDS 5

static struct board {
    _Alignas(64) _Atomic uint32_t word;
    struct side {
        _Alignas(64) _Atomic uint32_t arrived;
        uint64_t memory;
        pid_t pid;
    } side[2];
    _Alignas(4096) unsigned char ring[2][RING];
} * board;
static unsigned char *memory, *scratch;
static unsigned me;

static void meet(void)
{
    static uint32_t turn;
    atomic_store(&board->side[me].arrived, ++turn);
    for (uint64_t until = base_now_ns() + 10000000000u;
         (int32_t)(atomic_load(&board->side[!me].arrived) - turn) < 0;)
        if (base_now_ns() > until) {
            fprintf(stderr, "shm_perf: the other process is gone\n");
            _exit(1);
        }
}

static void hop(size_t bytes)
{
    (void)bytes;
    for (uint32_t i = 0; i < 1000; i++) {
        while (atomic_load(&board->word) != 2 * i + me)
            ;
        atomic_store(&board->word, 2 * i + me + 1);
    }
    meet();
    if (!me)
        atomic_store(&board->word, 0);
    meet();
}

static void copy(size_t bytes)
{
    memcpy(scratch, memory, bytes);
    meet();
}

static void read_other(size_t bytes)
{
    struct iovec to = {scratch, bytes}, from = {(void *)(uintptr_t)board->side[!me].memory, bytes};
    if (process_vm_readv(board->side[!me].pid, &to, 1, &from, 1, 0) != (ssize_t)bytes) {
        fprintf(stderr, "shm_perf: process_vm_readv: %m\n");
        exit(77);
    }
    meet();
}

static void through(size_t bytes, size_t ring)
{
    static size_t at;
    for (size_t done = 0; done < bytes; done += SLOT, at = (at + SLOT) % ring) {
        size_t n = base_min(SLOT, bytes - done);
        memcpy(board->ring[me] + at, memory + done, n);
        meet();
        memcpy(scratch + done, board->ring[!me] + at, n);
    }
    meet();
}

static void slots(size_t bytes)
{
    through(bytes, RING / 8);
}

static void wide(size_t bytes)
{
    through(bytes, RING);
}

static void rewrite(size_t bytes)
{
    read_other(bytes);
    memcpy(memory, scratch, bytes);
    meet();
}

/* The best of ROUNDS of `times` calls, in ns a call. */
static double time_of(void (*fn)(size_t bytes), size_t bytes, unsigned times)
{
    double best = 1e30;
    for (unsigned r = 0; r < ROUNDS; r++) {
        meet();
        uint64_t start = base_now_ns();
        for (unsigned i = 0; i < times; i++)
            fn(bytes);
        best = base_min(best, (double)(base_now_ns() - start) / times);
    }
    return best;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*fn)(size_t bytes);
    } kind[] = {{"copy", copy},
                {"read", read_other},
                {"slots", slots},
                {"wide", wide},
                {"rewrite", rewrite}};
    int cpu[2] = {0, 1};
    for (int i = 1; i < argc && i < 3; i++)
        cpu[i - 1] = atoi(argv[i]);
    board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t child = board == MAP_FAILED ? -1 : fork();
    if (child < 0) {
        perror("shm_perf");
        return 1;
    }
    me = !child;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)cpu[me], &set);
    if (sched_setaffinity(0, sizeof(set), &set))
        fprintf(stderr, "shm_perf: not pinned to CPU %d: %m\n", cpu[me]);
    memory = malloc(2 * MOST);
    if (!memory)
        return 1;
    scratch = memory + MOST;
    memset(memory, (int)me + 1, 2 * MOST);
    board->side[me].memory = (uint64_t)(uintptr_t)memory;
    board->side[me].pid = getpid();
    meet();
    double ns = time_of(hop, 0, 20) / 2000;
    if (!me)
        printf("# hop %.0f ns; below: us a call, both directions at once, best of %d\n%10s", ns,
               ROUNDS, "bytes");
    for (size_t k = 0; k < base_count(kind) && !me; k++)
        printf("%10s", kind[k].name);
    for (size_t bytes = 4096; bytes <= MOST; bytes *= 4) {
        if (!me)
            printf("\n%10zu", bytes);
        for (size_t k = 0; k < base_count(kind); k++) {
            double t = time_of(kind[k].fn, bytes, (unsigned)base_max(MOST / bytes / 4, 4u));
            if (!me)
                printf("%10.2f", t / 1000);
        }
    }
    int status = 0;
    if (!me) {
        putchar('\n');
        waitpid(child, &status, 0);
    }
    return status != 0;
}
