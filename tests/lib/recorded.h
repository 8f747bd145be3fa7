/* SPDX-License-Identifier: Apache-2.0 */
/*
 * recorded.h: what the recording profiler plug-in (tests/plugin/nccl_profiler.c) was told by libnccl.so.2 in this process, and what is
 * true of every such record.
 */
#ifndef TESTS_RECORDED_H
#define TESTS_RECORDED_H

#include "shims/nccl/profiler_abi.h"
#include "tests/plugin/nccl_profiler.h"

/* Path of the built plug-in: "nccl_profiler" or "nccl_profiler_v4". */
void recorded_path(char *path, size_t bytes, const char *name);
/* Finds the one that is loaded; fails if none is. */
void recorded_find(const char *path);
void recorded_wanted(int mask, int refused); /* from now on; forgets what was told */
void recorded_hold(int hold);                /* holds the thread up that tells of a kernel */
int recorded_events(void);
const struct recorded *recorded_event(int i);
/* Of a type and rank (-1: any); func NULL: any. */
int recorded_number(int type, int rank, const char *func);
int recorded_parts(const struct recorded *parent, int type);
/* Every event was started and stopped once, in a communicator that had been initialised and was finalized after it, under the
 * parents that its version has. Of so many kernels at most the end is not known: it was lost. */
void recorded_check(int version, int lost);

#endif
