/* SPDX-License-Identifier: Apache-2.0 */
/*
 * launcher.c: who started this process, and how its ranks get a common id. In this order:
 *   CHOIR_RENDEZVOUS with CHOIR_RANK, CHOIR_SIZE   the user said so (choir-run does)
 *   torchrun, if TORCHELASTIC_RUN_ID is set        inside a Slurm or MPI job its workers are the ranks, not the job's tasks
 *   PMIx                                           Open MPI, PRRTE, Slurm
 *   PMI-1 on PMI_FD                                MPICH's hydra, Slurm's pmi2
 *   libpmi2, libpmi                                Slurm, Cray
 *   Slurm's variables                              first host of the step, port from the step's number
 *   RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT     as torchrun and its imitators set them
 *   nothing                                        rank 0 of 1
 */
#include "boot/launcher.h"
#include "base/knob.h"
#include "boot/address.h"
#include <string.h>
#include <dlfcn.h>
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static _Thread_local uint32_t sequence; /* of the detection under way in this thread */

uint32_t launch_sequence(void)
{
    return sequence;
}

void launch_pause(uint64_t ns)
{
    nanosleep(&(struct timespec){(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)}, NULL);
}

void id_to_text(const struct choir_id *id, char text[ID_TEXT_BYTES])
{
    sodium_bin2hex(text, ID_TEXT_BYTES, (const unsigned char *)id->bytes, CHOIR_ID_BYTES);
}

bool id_from_text(const char *text, struct choir_id *id)
{
    size_t bytes = 0;
    return strlen(text) == ID_TEXT_BYTES - 1 &&
           !sodium_hex2bin((unsigned char *)id->bytes, CHOIR_ID_BYTES, text, ID_TEXT_BYTES - 1,
                           NULL, &bytes, NULL) &&
           bytes == CHOIR_ID_BYTES;
}

enum choir_status launch_number(const char *name, uint32_t *value)
{
    const char *text = getenv(name);
    char *end = NULL;
    errno = 0;
    unsigned long v = text && *text >= '0' && *text <= '9' ? strtoul(text, &end, 10) : 0;
    if (!end || *end || errno || v > INT32_MAX)
        return base_fail(CHOIR_ERR_ARGUMENT, "see what the launcher set",
                         "%s=%.64s is not a number", name, text ? text : "(unset)");
    *value = (uint32_t)v;
    return CHOIR_OK;
}

enum choir_status launch_rank_and_size(const char *rank, const char *size,
                                       struct boot_launch *launch)
{
    enum choir_status s = launch_number(rank, &launch->rank);
    s = s ? s : launch_number(size, &launch->size);
    if (!s && launch->rank >= launch->size)
        return base_fail(CHOIR_ERR_RANK, "number the ranks from 0 to N-1", "%s is %u and %s is %u",
                         rank, launch->rank, size, launch->size);
    return s;
}

enum mpi_state launch_mpi_state(void)
{
    union {
        void *data;
        int (*call)(int *flag);
    } initialized = {dlsym(RTLD_DEFAULT, "MPI_Initialized")},
      finalized = {dlsym(RTLD_DEFAULT, "MPI_Finalized")};
    int begun = 0, ended = 0;
    if (!initialized.data || !finalized.data)
        return MPI_ABSENT;
    initialized.call(&begun); /* both are legal at any time, in any thread (MPI 4.0, 11.4) */
    finalized.call(&ended);
    return ended ? MPI_ENDED : begun ? MPI_RUNNING : MPI_BEFORE;
}

static void set_name(struct boot_launch *launch, const char *name)
{
    snprintf(launch->name, sizeof(launch->name), "%s", name);
}

static enum choir_status by_rendezvous(uint64_t deadline_ns, struct boot_launch *launch)
{
    const char *where = knob_text(KNOB_RENDEZVOUS);
    int64_t rank = knob_int(KNOB_RANK), size = knob_int(KNOB_SIZE);
    char host[256], tag[32];
    if (rank < 0 || size <= 0 || rank >= size)
        return base_fail(rank >= 0 && size > 0 ? CHOIR_ERR_RANK : CHOIR_ERR_ARGUMENT,
                         "set CHOIR_RANK to 0..N-1 and CHOIR_SIZE to N in each process",
                         "CHOIR_RENDEZVOUS is set, but CHOIR_RANK is %lld and CHOIR_SIZE %lld",
                         (long long)rank, (long long)size);
    launch->rank = (uint32_t)rank;
    launch->size = (uint32_t)size;
    set_name(launch, "rendezvous");
    if (!strncmp(where, "file:", 5))
        return launch_file(where + 5, deadline_ns, launch);
    struct meeting m = {.host = host, .ports = 1, .source = "CHOIR_RENDEZVOUS", .tag = tag};
    if (strncmp(where, "tcp://", 6))
        return base_fail(CHOIR_ERR_ARGUMENT, "write tcp://host:port or file:/path",
                         "CHOIR_RENDEZVOUS=%.100s begins with neither tcp:// nor file:", where);
    enum choir_status s = address_split(where + 6, host, &m.port);
    snprintf(tag, sizeof(tag), "tcp %u", m.port);
    return s ? s : launch_meet(&m, deadline_ns, launch);
}

/* MASTER_PORT itself is torchrun's own store's. */
static enum choir_status by_torchrun(uint64_t deadline_ns, struct boot_launch *launch)
{
    char tag[256];
    uint32_t master;
    const char *run = getenv("TORCHELASTIC_RUN_ID"), *again = getenv("TORCHELASTIC_RESTART_COUNT");
    enum choir_status s = launch_rank_and_size("RANK", "WORLD_SIZE", launch);
    s = s ? s : launch_number("MASTER_PORT", &master);
    if (s)
        return s;
    uint32_t port = (uint32_t)knob_int(KNOB_PORT), ports = 1;
    if (!port) {
        port = master + 1;
        ports = port <= 65535 ? base_min(17u, 65536 - port) : 0;
    }
    if (!ports || master > 65535)
        return base_fail(CHOIR_ERR_ARGUMENT, "set CHOIR_PORT, or a lower MASTER_PORT",
                         "MASTER_PORT=%u leaves no port above it", master);
    snprintf(tag, sizeof(tag), "torchrun %u %s %s", master, run ? run : "", again ? again : "");
    struct meeting m = {.host = getenv("MASTER_ADDR"),
                        .port = (uint16_t)port,
                        .ports = (uint16_t)ports,
                        .source = ports > 1 ? "MASTER_PORT+1 and the next" : "CHOIR_PORT",
                        .tag = tag};
    set_name(launch, "torchrun");
    return launch_meet(&m, deadline_ns, launch);
}

/* "node[03-07,9],other" -> "node03". */
bool launch_first_host(const char *list, char host[256])
{
    size_t prefix = strcspn(list, ",["), digits = 0;
    if (list[prefix] == '[')
        digits = strspn(list + prefix + 1, "0123456789");
    if (!prefix || prefix + digits > 255 || (list[prefix] == '[' && !digits))
        return false;
    memcpy(host, list, prefix);
    memcpy(host + prefix, list + prefix + (digits ? 1 : 0), digits);
    host[prefix + digits] = 0;
    return true;
}

/* `srun --mpi=none`. The variables of a batch script look the same but for the step, and there we are alone. */
static enum choir_status by_slurm(uint64_t deadline_ns, struct boot_launch *launch)
{
    char host[256], tag[96];
    const char *job = getenv("SLURM_JOB_ID"), *step = getenv("SLURM_STEP_ID"),
               *nodes = getenv("SLURM_STEP_NODELIST");
    enum choir_status s = launch_rank_and_size("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", launch);
    if (s)
        return s;
    if (!job || !nodes || !launch_first_host(nodes, host))
        return base_fail(CHOIR_ERR_ARGUMENT,
                         "use srun --mpi=pmix or --mpi=pmi2, or set CHOIR_RENDEZVOUS",
                         "cannot tell the first host from SLURM_STEP_NODELIST=%.100s",
                         nodes ? nodes : "(unset)");
    snprintf(tag, sizeof(tag), "slurm %.32s.%.32s", job, step);
    uint32_t port = (uint32_t)knob_int(KNOB_PORT);
    struct meeting m = {
        .host = host,
        .port = (uint16_t)(port ? port : 20000 + base_hash(tag, strlen(tag), 0) % 10000),
        .ports = port ? 1 : 17,
        .source = port ? "CHOIR_PORT" : "chosen by job and step",
        .tag = tag};
    set_name(launch, "slurm");
    return launch_meet(&m, deadline_ns, launch);
}

static enum choir_status alone(struct boot_launch *launch)
{
    if (knob_is_set(KNOB_RANK) || knob_is_set(KNOB_SIZE))
        return base_fail(CHOIR_ERR_ARGUMENT,
                         "set CHOIR_RENDEZVOUS to tcp://host:port or file:/path, too",
                         "CHOIR_RANK or CHOIR_SIZE is set, but not where the ranks meet");
    launch->rank = 0;
    launch->size = 1;
    set_name(launch, "none");
    return boot_id_create(&launch->id);
}

static bool all_set(const char *const *names)
{
    for (; *names; names++)
        if (!getenv(*names))
            return false;
    return true;
}

static enum choir_status detect(uint64_t deadline_ns, struct boot_launch *launch)
{
    static const char *const torch[] = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", NULL};
    static const char *const slurm[] = {"SLURM_PROCID", "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS",
                                        NULL};
    static enum choir_status (*const way[])(uint64_t, struct boot_launch *) = {
        launch_pmix, launch_pmi, launch_libpmi};
    if (*knob_text(KNOB_RENDEZVOUS))
        return by_rendezvous(deadline_ns, launch);
    if (getenv("TORCHELASTIC_RUN_ID") && all_set(torch))
        return by_torchrun(deadline_ns, launch);
    for (size_t i = 0; i < base_count(way); i++) {
        enum choir_status s = way[i](deadline_ns, launch);
        if (s != CHOIR_ERR_UNSUPPORTED)
            return s;
    }
    if (all_set(slurm))
        return by_slurm(deadline_ns, launch);
    if (all_set(torch))
        return by_torchrun(deadline_ns, launch);
    return alone(launch);
}

enum choir_status boot_launch_detect(uint64_t deadline_ns, struct boot_launch *launch)
{
    static _Atomic uint32_t count;
    struct boot_launch l = {0};
    enum choir_status s = boot_begin();
    if (s)
        return s;
    sequence = atomic_fetch_add(&count, 1) + 1;
    s = detect(deadline_ns, &l);
    if (!s)
        *launch = l;
    base_log(BASE_DEBUG, (int)l.rank, "launcher %s size %u", l.name, l.size);
    sodium_memzero(&l, sizeof(l));
    return s;
}
