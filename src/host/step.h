/* SPDX-License-Identifier: Apache-2.0 */
/* step.h: between engine.c, which orders steps, and step.c, which runs one. */
#ifndef HOST_STEP_H
#define HOST_STEP_H

#include "host/host.h"

#define PULLED_BYTES (256u << 10) /* read from peers at a time to be combined: fits the L2 cache */
/* Read from peers at a time to be written once they have read what lies at its place: beyond their L2 cache, or taking the
 * lines back costs more than the copy. */
#define FETCHED_BYTES (4u << 20)

enum step_result { STEP_BLOCKED, STEP_MOVED, STEP_DONE, STEP_FAILED };

/* The next fragment of a step that combines or receives (MOVED), or its end (DONE). */
enum step_result step_computed(struct host_op *op, struct host_run *run,
                               const struct host_rstep *r);
/* A step whose only in is local: copies, and messages that go out or are posted. */
enum step_result step_pending(struct host_op *op, struct host_run *run, const struct host_rstep *r);

#endif
