/* SPDX-License-Identifier: Apache-2.0 */
/* profiler_words.c: what operations, types and algorithms are called in events of NCCL's profiler plug-ins. */
#include "shims/nccl/profiler.h"
#include "base/base.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

const char *nccl_profiler_func(const char *operation)
{
    static const char *const name[][2] = {{"all_reduce", "AllReduce"},
                                          {"reduce", "Reduce"},
                                          {"broadcast", "Broadcast"},
                                          {"all_gather", "AllGather"},
                                          {"reduce_scatter", "ReduceScatter"},
                                          {"all_to_all", "AlltoAll"},
                                          {"gather", "Gather"},
                                          {"scatter", "Scatter"},
                                          {"send", "Send"},
                                          {"recv", "Recv"},
                                          {"put_signal", "PutSignal"},
                                          {"signal", "Signal"},
                                          {"wait_signal", "WaitSignal"}};
    for (size_t i = 0; i < base_count(name); i++)
        if (!strcmp(name[i][0], operation))
            return name[i][1];
    return nccl_profiler_lasting(operation); /* what NCCL does not have */
}

const char *nccl_profiler_datatype(enum choir_type type)
{
    static const char *const name[CHOIR_TYPES] = {[CHOIR_INT8] = "ncclInt8",
                                                  [CHOIR_UINT8] = "ncclUint8",
                                                  [CHOIR_INT32] = "ncclInt32",
                                                  [CHOIR_UINT32] = "ncclUint32",
                                                  [CHOIR_INT64] = "ncclInt64",
                                                  [CHOIR_UINT64] = "ncclUint64",
                                                  [CHOIR_FLOAT16] = "ncclFloat16",
                                                  [CHOIR_BFLOAT16] = "ncclBfloat16",
                                                  [CHOIR_FLOAT32] = "ncclFloat32",
                                                  [CHOIR_FLOAT64] = "ncclFloat64",
                                                  [CHOIR_FLOAT8_E4M3] = "ncclFloat8e4m3",
                                                  [CHOIR_FLOAT8_E5M2] = "ncclFloat8e5m2"};
    return name[type] ? name[type] : choir_type_name(type);
}

/* Names of algorithms: some dozens. */
const char *nccl_profiler_lasting(const char *text)
{
    static struct kept {
        struct kept *next;
        char text[];
    } * kept;
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    size_t bytes = strlen(text) + 1;
    pthread_mutex_lock(&lock);
    struct kept *k = kept;
    while (k && strcmp(k->text, text))
        k = k->next;
    if (!k && (k = malloc(sizeof(*k) + bytes))) {
        memcpy(k->text, text, bytes);
        k->next = kept;
        kept = k;
    }
    pthread_mutex_unlock(&lock);
    return k ? k->text : "";
}
