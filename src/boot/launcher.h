/* SPDX-License-Identifier: Apache-2.0 */
/*
 * launcher.h: what the ways of finding an id share. Each launch_* fills `launch` on CHOIR_OK only, and returns
 * CHOIR_ERR_UNSUPPORTED if this launcher has not started us.
 */
#ifndef BOOT_LAUNCHER_H
#define BOOT_LAUNCHER_H

#include "boot/boot.h"

/* Where rank 0's server is to be found when the launcher names host and port but carries no id. */
struct meeting {
    const char *host;
    uint16_t port, ports; /* one of port .. port+ports-1 */
    const char *source;   /* what names the port, for errors */
    const char *tag;      /* what tells this job from others of the same user */
};
/* Rank 0 starts the server there; all make the same secret from CHOIR_SECRET, CHOIR_SECRET_FILE or neither. launch->rank
 * and size are set. (meet.c) */
enum choir_status launch_meet(const struct meeting *m, uint64_t deadline_ns,
                              struct boot_launch *launch);
/* CHOIR_RENDEZVOUS=file:path: rank 0 writes an id to the file, the others wait for it. (file.c) */
enum choir_status launch_file(const char *path, uint64_t deadline_ns, struct boot_launch *launch);
enum choir_status launch_pmix(uint64_t deadline_ns, struct boot_launch *launch);   /* pmix.c */
enum choir_status launch_pmi(uint64_t deadline_ns, struct boot_launch *launch);    /* pmi.c */
enum choir_status launch_libpmi(uint64_t deadline_ns, struct boot_launch *launch); /* libpmi.c */

/* The first name of Slurm's list: "node[03-07,9],other" -> "node03". */
bool launch_first_host(const char *list, char host[256]);
/* How many times this process has looked for a launcher's id, this time included: ranks call alike, so it tells one communicator
 * from the next. */
uint32_t launch_sequence(void);
/* The id as text: 256 hexadecimal digits and a zero. */
#define ID_TEXT_BYTES (2 * CHOIR_ID_BYTES + 1)
void id_to_text(const struct choir_id *id, char text[ID_TEXT_BYTES]);
bool id_from_text(const char *text, struct choir_id *id);
/* A number in the environment; otherwise the error says which variable and what it holds. */
enum choir_status launch_number(const char *name, uint32_t *value);
enum choir_status launch_rank_and_size(const char *rank, const char *size,
                                       struct boot_launch *launch);
void launch_pause(uint64_t ns);
/* Whether an MPI library is in this process, initialised and not finalised. */
enum mpi_state { MPI_ABSENT, MPI_BEFORE, MPI_RUNNING, MPI_ENDED };
enum mpi_state launch_mpi_state(void);

#endif
