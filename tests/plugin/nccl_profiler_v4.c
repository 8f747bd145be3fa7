/* SPDX-License-Identifier: Apache-2.0 */
/* The recording profiler plug-in (nccl_profiler.c) in version 4 alone. */
#define ONLY_V4
#include "nccl_profiler.c"
