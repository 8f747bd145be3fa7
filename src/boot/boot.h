/* SPDX-License-Identifier: Apache-2.0 */
/*
 * boot.h: how ranks that know only an id (or a launcher's variables) find each other.
 *
 * One process listens where the id says; every rank connects, proves that it knows the secret, and says which
 * rank it is and how it can be reached. When all are there, each is told the addresses of its neighbours in a tree
 * (parent and children); everything further goes over transports' endpoints, not over boot.
 * All of it is encrypted and bounded in time. Knows no plan and no transport.
 */
#ifndef BOOT_BOOT_H
#define BOOT_BOOT_H

#include "base/base.h"

#define BOOT_ADDRESS_MOST 1024 /* bytes of one rank's address blob */
#define BOOT_FANOUT 8          /* children in the tree: of rank r, r*8+1 ... r*8+8 */

/* What an id carries, decoded. The id is opaque to users and at most CHOIR_ID_BYTES. */
struct boot_id {
    unsigned char secret[32]; /* derives every key; boot_secret_name names it */
    bool
        insecure; /* no secret was given: loopback and same-uid peers only, unless CHOIR_INSECURE */
};
/* Makes an id and starts listening for it in this process (a thread of boot's own serves it until every rank
 * was told, the creation deadline passed, or boot_id_cancel). */
enum choir_status boot_id_create(struct choir_id *id);
/* Takes it back: those who wait for it get CHOIR_ERR_ABORTED. Only in the process that made it. */
enum choir_status boot_id_cancel(const struct choir_id *id);
enum choir_status boot_id_decode(const struct choir_id *id, struct boot_id *out);
void boot_secret_name(const unsigned char secret[32], unsigned char name[16]);

/*
 * Joins the rendezvous of `id` as `rank` of `size`. boot_join blocks, at most until deadline_ns (base_now_ns clock), or
 * until *cancel (may be NULL) is not 0: CHOIR_ERR_ABORTED. Several ranks of one process may join at the same time from
 * different threads; one thread that joins several ranks uses boot_join_start / boot_join_test.
 * address: this rank's blob, at most BOOT_ADDRESS_MOST. On CHOIR_OK the blobs of parent and children
 * are in `peers`, malloc'ed, freed with boot_peers_free.
 * Errors (thread's record): CHOIR_ERR_PEER_MISSING names the missing ranks (as ranges); CHOIR_ERR_RANK two ranks with the same number,
 * CHOIR_ERR_ARGUMENT another size or library version; CHOIR_ERR_AUTH wrong secret; CHOIR_ERR_PEER_DEAD a rank that had
 * joined died; CHOIR_ERR_STATE an id used before; CHOIR_ERR_NETWORK its maker is gone; CHOIR_ERR_TIMEOUT nobody was
 * reached, with the addresses tried.
 */
struct boot_peer {
    uint32_t rank, bytes;
    const void *address;
};
struct boot_peers {
    uint64_t
        nonce; /* the same on all ranks of this join, fresh each time: names the communicator */
    uint32_t count;
    struct boot_peer *peer; /* parent first (not at rank 0), then children ascending */
};
struct boot_join;
enum choir_status boot_join(const struct choir_id *id, uint32_t rank, uint32_t size,
                            const void *address, uint32_t bytes, uint64_t deadline_ns,
                            const _Atomic int *cancel, struct boot_peers *peers);
enum choir_status boot_join_start(const struct choir_id *id, uint32_t rank, uint32_t size,
                                  const void *address, uint32_t bytes, uint64_t deadline_ns,
                                  struct boot_join **join);
/* CHOIR_IN_PROGRESS until done; never blocks. On anything else the join is freed. */
enum choir_status boot_join_test(struct boot_join *join, struct boot_peers *peers);
/* Sleeps until a test may find something new, at most until until_ns. */
void boot_join_wait(struct boot_join *join, uint64_t until_ns);
void boot_join_cancel(struct boot_join *join); /* frees it; NULL is allowed */
void boot_peers_free(struct boot_peers *peers);

/* boot registers its own fork handlers: a child has no servers, descriptors or secrets of boot's, and a join under way
 * ends there with CHOIR_ERR_FORKED. */

/* Knobs, log and libsodium; idempotent. Every entry point calls it. */
enum choir_status boot_begin(void);

/* --- local.c: ranks as processes of this host ---------------------------------------------------- */
/* Forks n ranks for which boot_launch_detect then works; to be called before any thread exists. Returns in the ranks, with
 * the rank's number; this process waits for them, passes signals on and exits with the status of the first that failed. */
int boot_local_fork(int n);

/* --- launchers (launcher.c, pmix.c, pmi.c): who am I, and the id all ranks share ---------------- */
struct boot_launch {
    uint32_t rank, size;
    struct choir_id id;
    char name
        [32]; /* "rendezvous", "pmix", "pmi1", "libpmi2", "libpmi", "slurm", "torchrun", "none" */
};
/* Finds the launcher; blocking, bounded by deadline_ns. Errors name what was looked for. A single process with no launcher
 * at all is rank 0 of 1. Libraries (libpmix, libpmi) are opened at run time. */
enum choir_status boot_launch_detect(uint64_t deadline_ns, struct boot_launch *launch);

#endif
