/* SPDX-License-Identifier: Apache-2.0 */
/* nccl_profiler.h: what the recording profiler plug-in keeps; its functions are found by name. */
#ifndef TESTS_PLUGIN_NCCL_PROFILER_H
#define TESTS_PLUGIN_NCCL_PROFILER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define EXPORT __attribute__((visibility("default")))
#define RECORDED_MOST 20000
#define RECORDED_TEXT 40
#define RECORDED_CONTEXT (-1) /* the type of what init made; stopped: by finalize */

struct recorded {
    int type, version, rank, started, stopped;
    int late; /* states after the stop */
    unsigned states;
    void *context, *parent, *group, *stream;
    char name[RECORDED_TEXT], func[RECORDED_TEXT], datatype[RECORDED_TEXT], algo[RECORDED_TEXT],
        proto[RECORDED_TEXT];
    const char *func_at, *datatype_at, *algo_at; /* as handed: they stay what they are */
    uint64_t comm, sequence, gpu_start, gpu_stop;
    size_t elements;
    const void *send, *recv;
    int nodes, ranks, root, peer, channels, channel, steps, chunk, is_send, depth;
    pid_t pid;
    bool captured;
};

#endif
