/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bind.h: a plan as the tables that its kernel walks (abi.h), in one piece of memory to be copied to where the kernel runs.
 */
#ifndef CUDA_BIND_H
#define CUDA_BIND_H

#include "cuda/abi.h"
#include "plan/plan.h"

struct cuda_tables {
    struct cuda_plan plan; /* its pointers: into data */
    uint64_t bytes;
    const void *data; /* aligned to 16 bytes */
};
/* Free with cuda_tables_free. CHOIR_ERR_UNSUPPORTED: too large for a kernel, or not made for its mailboxes. */
enum choir_status cuda_bind(const struct choir_plan *plan, uint32_t elem,
                            struct cuda_tables **tables);
/* The plan as it is where `base` is the address of a copy of data. */
void cuda_tables_relocate(const struct cuda_tables *tables, const void *base,
                          struct cuda_plan *plan);
void cuda_tables_free(struct cuda_tables *tables);

#endif
