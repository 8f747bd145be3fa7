/* SPDX-License-Identifier: Apache-2.0 */
/*
 * perf.h: the shared driver of the perf binaries. A binary describes one collective (struct perf_coll, a few
 * small functions) and calls perf_main(), which owns everything else: flags, ranks, buffers, timing, checking, output.
 * Flags, byte counts and bandwidth formulas mean what they mean in nccl-tests.
 */
#ifndef PERF_PERF_H
#define PERF_PERF_H

#include "base/base.h"
#include <stdio.h>

/* --- one operation as a rank sees it --------------------------------------------------------- */
struct perf_call {
    choir_comm *comm;
    choir_stream *stream; /* NULL: calls return when done */
    void *send, *recv;
    uint64_t count; /* what the call is given; elements */
    enum choir_type type;
    choir_op op;    /* the operation, a created one for PERF_SCALED */
    choir_op op_id; /* the operation as data.h knows it: a builtin or PERF_SCALED */
    int root;
    uint32_t rank, ranks;
    bool in_place;
};

/* Elements, for one count of the sweep. */
struct perf_counts {
    uint64_t send, recv;               /* in the buffers of one rank */
    uint64_t param;                    /* perf_call.count */
    uint64_t send_offset, recv_offset; /* in place: times rank, from the start of recv */
    uint64_t moved;                    /* algorithm bandwidth counts these */
};

enum perf_kind {
    PERF_ALL_REDUCE,
    PERF_ALL_GATHER,
    PERF_REDUCE_SCATTER,
    PERF_ALL_TO_ALL,
    PERF_ALL_TO_ALL_V,
    PERF_BROADCAST,
    PERF_REDUCE,
    PERF_GATHER,
    PERF_SCATTER,
    PERF_SEND_RECV,
    PERF_HYPERCUBE
};

struct perf_args;
struct perf_coll {
    const char *name; /* "all_reduce" */
    enum perf_kind kind;
    bool reduces, rooted, in_place, grouped; /* grouped: may run inside a group (-g, -m) */
    /* Once, after the number of ranks is known; false: a reason was printed. May be NULL. */
    bool (*prepare)(const struct perf_args *args, uint32_t ranks, bool print);
    void (*counts)(uint64_t count, uint32_t type_bytes, uint32_t ranks, struct perf_counts *out);
    double (*bus_factor)(uint32_t ranks);
    enum choir_status (*run)(const struct perf_call *call);
    void (*fill)(const struct perf_call *call, uint64_t seed);      /* the inputs of this rank */
    uint64_t (*wrong)(const struct perf_call *call, uint64_t seed); /* elements of its outputs */
    /* Elements that `from` sends `to`, where that differs by pair; else NULL. */
    uint64_t (*pair)(const struct perf_call *call, uint32_t from, uint32_t to);
    /* After a cell, on the printing rank. May be NULL. */
    void (*summary)(const struct perf_call *call, double seconds);
};

/* What several collectives have in common (blocks.c): counts, a block or vector of every rank as the input, all of them as
 * the output. */
void perf_counts_whole(uint64_t count, uint32_t type_bytes, uint32_t ranks,
                       struct perf_counts *out);
void perf_counts_gather(uint64_t count, uint32_t type_bytes, uint32_t ranks,
                        struct perf_counts *out);
void perf_counts_scatter(uint64_t count, uint32_t type_bytes, uint32_t ranks,
                         struct perf_counts *out);
void perf_fill_own(const struct perf_call *call, uint64_t seed);
uint64_t perf_wrong_gathered(const struct perf_call *call, uint64_t seed);
/* Elements of each block when `count` elements are shared among ranks: rounded down to 16 bytes. */
static inline uint64_t perf_share(uint64_t count, uint32_t type_bytes, uint32_t ranks)
{
    return count / ranks & ~(uint64_t)(16 / type_bytes - 1);
}
static inline double perf_factor_one(uint32_t ranks)
{
    (void)ranks;
    return 1;
}
static inline double perf_factor_share(uint32_t ranks) /* all but the own block travels */
{
    return (double)(ranks - 1) / ranks;
}
int perf_main(int argc, char **argv, const struct perf_coll *coll);

/* --- flags (args.c) -------------------------------------------------------------------------- */
#define PERF_ALL UINT32_MAX     /* every type, every operation */
#define PERF_SCALED 0x7fffffffu /* nccl-tests' mulsum: a choir_op_create_scaled operation */
struct perf_args {
    const char *program;
    int argc;
    char **argv;
    uint64_t min_bytes, max_bytes, step_bytes, factor;
    int threads, per_thread; /* ranks: processes * threads * per_thread */
    int local;               /* --local: processes to start here; 0: none */
    int iters, warmup, aggregate, cycles, check;
    uint32_t type, op; /* or PERF_ALL */
    int root;          /* -1: all */
    int average, blocking, stream_null, cpu_time, timestamps, unalign, memory_report, skip, samples;
    int reg; /* -R */
    double timeout_s;
    const char *json; /* NULL: none */
    bool json_keep;   /* -J: never overwrite */
    const char *vs;   /* "mpi", "nccl", "nccl:" and modes; or NULL */
    int rounds;       /* of --vs */
    int graphs;       /* -G: launches of a graph of the iterations; 0: no graph */
    bool cuda;        /* --memory cuda */
    bool peak, same_buffer, choir_memory, quiet;
};
/* Timed operations of a loop: iterations, or launches of a graph of them, times operations of a group. */
static inline double perf_timed(const struct perf_args *a)
{
    return (double)a->iters * a->aggregate * base_max(a->graphs, 1);
}
/* Times taken of a loop: of iterations, or of launches. */
static inline size_t perf_samples(const struct perf_args *a)
{
    return (size_t)(a->graphs ? a->graphs : a->iters);
}
/* 0: go on; else the exit status plus one (help printed, or an error on stderr). */
int perf_args_parse(struct perf_args *args, int argc, char **argv);
bool perf_size_parse(const char *text, uint64_t *bytes); /* 4, 4K, 1.5M, 1G */
/* Types and operations by nccl-tests' names and Choir's. */
const char *perf_type_name(uint32_t type); /* "float" */
const char *perf_op_name(uint32_t op);     /* "sum", "mulsum" */
bool perf_type_parse(const char *text, uint32_t *type);
bool perf_op_parse(const char *text, uint32_t *op);
extern const uint32_t perf_types[], perf_ops[]; /* in the order of a sweep over all */
extern const size_t perf_type_count, perf_op_count;
bool perf_op_defined(uint32_t op, uint32_t type);

/* --- reference data (data.c) ----------------------------------------------------------------- */
/* Rank r's sequence of elements is a function of (seed, type, op, r, index), chosen so that every order of
 * combination gives the same bits: what is checked is the collective, not rounding. */
#define PERF_NO_OP UINT32_MAX
struct perf_pattern {
    enum choir_type type;
    uint32_t op; /* PERF_NO_OP for collectives that do not reduce */
    uint32_t ranks;
    uint64_t seed;
};
void perf_fill(const struct perf_pattern *p, void *dst, uint32_t rank, uint64_t first,
               uint64_t count);
/* Elements of got[0, count) that differ from rank's elements [first, first+count). */
uint64_t perf_wrong(const struct perf_pattern *p, const void *got, uint32_t rank, uint64_t first,
                    uint64_t count);
/* The same for the reduction of all ranks' elements [first, first+count). */
uint64_t perf_wrong_reduced(const struct perf_pattern *p, const void *got, uint64_t first,
                            uint64_t count);
/* Elements of an untouched buffer that are no longer as perf_poison left them. */
void perf_poison(void *dst, uint64_t bytes);
uint64_t perf_wrong_poison(const void *got, uint64_t count, uint32_t type_bytes);
/* *scale becomes rank's factor of PERF_SCALED. */
void perf_scale(enum choir_type type, uint32_t rank, void *scale);
static inline struct perf_pattern perf_pattern(const struct perf_call *c, uint64_t seed,
                                               bool reduces)
{
    return (struct perf_pattern){c->type, reduces ? c->op_id : PERF_NO_OP, c->ranks, seed};
}

/* --- ranks (job.c, memory.c) ------------------------------------------------------------------ */
#define PERF_PEER_MODES 3
struct perf_job;
struct perf_gpu; /* gpu.h */
struct perf_graph;
struct perf_gpu_calls;
struct perf_rank {
    struct perf_call call;
    choir_region *region[2];
    choir_window *window[2];
    void *memory[2];      /* what is sent, what is received */
    void *peer_memory[2]; /* the peer's, where it cannot use ours; or NULL */
    char *mirror[2];      /* of GPU memory: filled and checked on the host */
    struct perf_gpu *gpu; /* --memory cuda, else NULL */
    struct perf_graph *graph[1 + PERF_PEER_MODES]; /* of a cell: ours, the peer's modes */
    void *peer;                                    /* what the peer keeps of the rank */
    uint64_t scale;                                /* of PERF_SCALED; holds one element */
};
struct perf_thread {
    struct perf_job *job;
    int index;
    struct perf_rank *rank; /* args.per_thread of them */
    double *samples[2];     /* out of place, in place; perf_samples() each */
    struct peak *peak;      /* peak.c's: the next ranks' buffers; what was measured last */
    double peak_bytes, peak_s;
    bool prints; /* rank 0's thread */
};
struct perf_job {
    const struct perf_args *args;
    const struct perf_coll *coll;
    const struct perf_peer *peer; /* --vs */
    const struct perf_gpu_calls *gpu;
    uint32_t procs, proc, ranks;
    choir_comm *control;   /* one rank per process */
    bool control_measured; /* it is the measured one, too */
    struct perf_thread *thread;
    struct perf_sync *sync;
    double peak_bytes_s;  /* --peak on host memory, per rank */
    uint32_t local_first; /* ranks of this host before those of this process */
    double create_s;
    uint64_t wrong; /* elements, over all cells and ranks */
    int status;     /* of the report, on the printing process */
};
size_t perf_buffer_bytes(
    const struct perf_args *a); /* of each buffer, what is behind them included */
void perf_memory_open(struct perf_thread *t, struct perf_rank *r);
void perf_memory_close(struct perf_thread *t, struct perf_rank *r);
/* Bytes of every rank to every rank, over the ranks' communicators: mine[i] of the thread's ranks, all[r] of all. */
void perf_exchange(struct perf_thread *t, const void *mine, void *all, size_t bytes);
/* --peak: of the machine before the sweep (host memory), of a cell before it is timed (GPUs): the seconds in which `bytes`
 * leave every rank and reach it at once. 0: not measured. */
void perf_peak_open(struct perf_thread *t);
double perf_peak_cell(struct perf_thread *t, double bytes);
void perf_peak_close(struct perf_thread *t);
/* Starts processes' ranks, runs body on every thread, ends them. Returns the exit status. */
void perf_sweep(struct perf_thread *t); /* the body of every thread (sweep.c) */
int perf_job_run(struct perf_job *job, void (*body)(struct perf_thread *));
void perf_barrier(struct perf_thread *t);
/* values[0, n) over all threads of all processes: SUM, MIN, MAX; AVG. The same result on all. */
void perf_reduce(struct perf_thread *t, double *values, size_t n, choir_op op);
/* Prints the communicator's record and ends the process if status is not CHOIR_OK. */
void perf_check(struct perf_thread *t, choir_comm *comm, enum choir_status status,
                const char *what);

/* --- the peer of --vs (mpi.c, nccl.c) ----------------------------------------------------------- */
struct perf_peer {
    const char *name;
    char version[64];
    int modes; /* ways to use it; the best one counts */
    const char *mode[PERF_PEER_MODES];
    const char *missing[PERF_PEER_MODES]; /* why a mode is left out; NULL: it is there */
    bool checked;                         /* its results have to be those that ours have */
    /* Before anything else; what cannot be used says why, on stderr. Brings rank and size where it started us. */
    bool (*init)(const struct perf_args *args, uint32_t *rank, uint32_t *size);
    void (*share)(void *data, int bytes); /* rank 0's to all; NULL: it has not started us */
    void (*open)(struct perf_thread *t);  /* ranks, after ours; NULL: nothing to do */
    void (*close)(struct perf_thread *t);
    bool (*supports)(const struct perf_coll *coll, uint32_t type, uint32_t op, bool in_place);
    void (*group)(bool begin); /* of the calls of a thread's ranks; NULL: there is one rank */
    void (*run)(const struct perf_coll *coll, const struct perf_call *call, void *rank, int mode);
    void (*barrier)(void); /* NULL: ours */
    void (*end)(void);
};
/* NULL: not built with it. */
struct perf_peer *perf_peer_mpi(void);
struct perf_peer *perf_peer_nccl(void);

/* --- results (report.c, json.c) ---------------------------------------------------------------- */
struct perf_stats {
    double time_s; /* per operation, over the timed loop, as -a says */
    double min_s, p50_s, p99_s, max_s, mean_s;
    const double *samples; /* sorted, seconds; slowest rank of each iteration */
    size_t count;
    double alg_bytes_s, bus_bytes_s;
    int64_t wrong; /* -1: not checked */
    /* --vs: medians over the rounds, of each mode, and of the best of them; 0: not measured. Quartiles of ours and of that. */
    double mode_s[PERF_PEER_MODES], peer_s, ratio;
    double quartile_s[2], peer_quartile_s[2];
    int peer_mode;
    bool measured;
};
struct perf_cell {
    uint64_t bytes, count;
    uint32_t type, op;
    int root;
    char algorithm[64];
    double ceiling_s;           /* --peak: what its bytes take at the ceiling; 0: not measured */
    struct perf_stats place[2]; /* out of place, in place */
};
struct perf_report;
struct perf_report *perf_report_open(const struct perf_job *job, uint64_t cells);
void perf_report_cell(struct perf_report *r, const struct perf_cell *cell);
void perf_report_note(struct perf_report *r, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
int perf_report_close(struct perf_report *r, const struct choir_memory *memory); /* exit status */
/* Both places of a cell, timed and checked (cell.c); on the printing thread reported. */
void perf_cell_run(struct perf_thread *t, struct perf_cell *cell, struct perf_report *report);
/* width characters at least, as many decimals of the first two as fit. */
const char *perf_number(char *text, size_t bytes, double value, int width);

struct perf_json;
struct perf_json *perf_json_open(const char *path, bool keep, const char **actual);
void perf_json_object(struct perf_json *j, const char *key);
void perf_json_list(struct perf_json *j, const char *key);
void perf_json_end(struct perf_json *j);
void perf_json_text(struct perf_json *j, const char *key, const char *value); /* NULL: null */
void perf_json_real(struct perf_json *j, const char *key, double value);      /* NaN: null */
void perf_json_int(struct perf_json *j, const char *key, int64_t value);
bool perf_json_close(struct perf_json *j);

#endif
