/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bell.h: how who waits is woken (bell.c), and where signals are counted (put.c): memory of each rank that its peers map.
 * Part of host.h, which includes it.
 */
#ifndef HOST_BELL_H
#define HOST_BELL_H

struct host_comm;

struct host_bell { /* shared: peers ring it */
    _Atomic uint32_t word, asleep;
    uint8_t pad[56];
    _Atomic uint64_t signal[]; /* raised by each rank, CHOIR_SIGNALS of each (put.c) */
};
struct
    host_bell_box { /* a bell and who holds it: ranks of the same process share the memory itself */
    _Atomic uint32_t holders;
    uint32_t transport; /* that made `shared`, or HOST_TRANSPORTS: private memory */
    struct choir_shared shared;
    struct host_bell *bell;
};
enum choir_status host_bell_create(uint32_t ranks, struct host_bell_box **box);
uint64_t host_bell_bytes(uint32_t ranks);
void host_bell_drop(struct host_bell_box *box);
enum host_asleep { HOST_ASLEEP_CALLER = 1, HOST_ASLEEP_SERVICE = 2 };

void host_bell_ring_slow(struct host_bell *bell, bool same, struct host_end *end);
/* Called after publishing anything the peer may sleep for. same: this process; end: to the peer's. */
static inline void host_bell_ring(struct host_bell *bell, bool same, struct host_end *end)
{
    if (!bell)
        return;
    if (base_unlikely(
            !host_process.membarrier)) /* else the sleeper pays: pairs with host_bell_sleep */
        atomic_thread_fence(memory_order_seq_cst);
    if (base_unlikely(atomic_load_explicit(&bell->asleep, memory_order_relaxed)))
        host_bell_ring_slow(bell, same, end);
}
/* Announces sleep; the caller must look once more before host_bell_sleep. Returns the word to sleep on. */
uint32_t host_bell_prepare(struct host_comm *comm, uint32_t who);
/* The same where only this process's threads ring (host_bell_wake_own): costs no fence. */
uint32_t host_bell_mark(struct host_comm *comm, uint32_t who);
void host_bell_sleep(struct host_comm *comm, uint32_t word, uint64_t most_ns);
void host_bell_cancel(struct host_comm *comm, uint32_t who);

#endif
