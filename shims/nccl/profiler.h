/* SPDX-License-Identifier: Apache-2.0 */
/* profiler.h: a loaded profiler plug-in, whichever version it speaks, and what feeds it. */
#ifndef SHIMS_NCCL_PROFILER_H
#define SHIMS_NCCL_PROFILER_H

#include "choir.h"
#include "shims/nccl/profiler_abi.h"

/* profiler_events.c: loads the plug-in that NCCL_PROFILER_PLUGIN names (or libnccl-profiler.so, where there is one) and observes for
 * it from now on. Once, when Choir's settings have been read. */
void nccl_profiler_start(void);

/* profiler.c: finds and opens it; says in the log what came of that. */
bool nccl_profiler_load(void);
/* Of a communicator; false: the plug-in does not want it. */
bool nccl_profiler_init(void **context, uint64_t comm, const char *name, int nodes, int ranks,
                        int rank);
void nccl_profiler_finalize(void *context);
/* Whether any of these types are wanted now. */
bool nccl_profiler_wants(int types);
/* A handle, or NULL: it is told of no such event. The event may be changed. */
void *nccl_profiler_event(void *context, struct profiler_event_5 *event);
void nccl_profiler_record(void *handle, enum profiler_state state, uint64_t gpu_ns);
void nccl_profiler_stop(void **handle); /* NULL afterwards, and maybe before */

/* profiler_words.c: in NCCL's words. Plug-ins keep what they are handed, so all last as long as the process. */
const char *nccl_profiler_func(const char *operation);
const char *nccl_profiler_datatype(enum choir_type type);
const char *nccl_profiler_lasting(const char *text);

#endif
