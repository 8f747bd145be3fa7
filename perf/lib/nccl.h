/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nccl.h: the functions of libnccl.so.2 that --vs nccl calls, declared here so that nothing of NCCL is needed to build. It is found
 * at run time: CHOIR_NCCL_LIBRARY names the file, else the loader looks for it.
 */
#ifndef PERF_NCCL_H
#define PERF_NCCL_H

#include "perf/lib/perf.h"

struct CUstream_st;
struct nccl_id { /* passed by value */
    char bytes[128];
};
/* ncclConfig_t as of 2.28; what is not set has these values. */
#define NCCL_MAGIC 0xcafebeefu
#define NCCL_UNSET (-2147483647 - 1)
struct nccl_config {
    size_t size;
    unsigned magic, version;
    int blocking, cga_cluster_size, min_ctas, max_ctas;
    const char *net_name;
    int split_share, traffic_class;
    const char *comm_name;
    int collnet_enable, cta_policy, shrink_share, nvls_ctas, channels_per_net_peer,
        nvlink_centric_sched;
};
_Static_assert(sizeof(struct nccl_config) == 80, "NCCL's layout");
#define NCCL_CONFIG_VERSION 22800u
#define NCCL_POLICY_ZERO 2 /* no blocks of threads: copy engines, where they can do it */
#define NCCL_WINDOW_SYMMETRIC 1

/* X(member, symbol, needed, parameters) */
#define NCCL_LIST(X)                                                                               \
    X(get_version, "ncclGetVersion", true, (int *))                                                \
    X(get_unique_id, "ncclGetUniqueId", true, (struct nccl_id *))                                  \
    X(init_rank, "ncclCommInitRank", true, (void **, int, struct nccl_id, int))                    \
    X(init_rank_config, "ncclCommInitRankConfig", false,                                           \
      (void **, int, struct nccl_id, int, struct nccl_config *))                                   \
    X(destroy, "ncclCommDestroy", true, (void *))                                                  \
    X(group_start, "ncclGroupStart", true, (void))                                                 \
    X(group_end, "ncclGroupEnd", true, (void))                                                     \
    X(mem_alloc, "ncclMemAlloc", true, (void **, size_t))                                          \
    X(mem_free, "ncclMemFree", true, (void *))                                                     \
    X(window_register, "ncclCommWindowRegister", false, (void *, void *, size_t, void **, int))    \
    X(window_deregister, "ncclCommWindowDeregister", false, (void *, void *))                      \
    X(all_reduce, "ncclAllReduce", true,                                                           \
      (const void *, void *, size_t, int, int, void *, struct CUstream_st *))                      \
    X(all_gather, "ncclAllGather", true,                                                           \
      (const void *, void *, size_t, int, void *, struct CUstream_st *))                           \
    X(reduce_scatter, "ncclReduceScatter", true,                                                   \
      (const void *, void *, size_t, int, int, void *, struct CUstream_st *))                      \
    X(broadcast, "ncclBroadcast", true,                                                            \
      (const void *, void *, size_t, int, int, void *, struct CUstream_st *))                      \
    X(reduce, "ncclReduce", true,                                                                  \
      (const void *, void *, size_t, int, int, int, void *, struct CUstream_st *))                 \
    X(send, "ncclSend", true, (const void *, size_t, int, int, void *, struct CUstream_st *))      \
    X(recv, "ncclRecv", true, (void *, size_t, int, int, void *, struct CUstream_st *))            \
    X(all_to_all, "ncclAlltoAll", false, /* these three: 2.28 */                                   \
      (const void *, void *, size_t, int, void *, struct CUstream_st *))                           \
    X(gather, "ncclGather", false,                                                                 \
      (const void *, void *, size_t, int, int, void *, struct CUstream_st *))                      \
    X(scatter, "ncclScatter", false,                                                               \
      (const void *, void *, size_t, int, int, void *, struct CUstream_st *))

struct nccl {
#define NCCL_MEMBER(member, symbol, needed, parameters) int(*member) parameters;
    NCCL_LIST(NCCL_MEMBER)
#undef NCCL_MEMBER
    const char *(*error_string)(int);
    const char *(*last_error)(void *);
};
extern struct nccl nccl; /* once loaded */

enum nccl_mode { NCCL_MODE_DEFAULT, NCCL_MODE_SYMMETRIC, NCCL_MODE_ZERO, NCCL_MODES };
_Static_assert(NCCL_MODES <= PERF_PEER_MODES, "a communicator for each mode");
struct nccl_rank {
    struct CUstream_st *stream;
    void *comm[NCCL_MODES], *window[NCCL_MODES][2];
};

/* Prints what went wrong and ends the process, unless result is 0. */
void nccl_must(int result, const char *what);
bool nccl_supports(const struct perf_coll *coll, uint32_t type, uint32_t op, bool in_place);
void nccl_run(const struct perf_coll *coll, const struct perf_call *call, void *rank, int mode);
/* false: the reason was printed. */
bool nccl_load(struct nccl *nccl, const char *program);
/* Elements of Choir's type as NCCL's; false: NCCL has none. */
bool nccl_type(unsigned type, int *out);
bool nccl_op(unsigned op, int *out);

#endif
