/* SPDX-License-Identifier: Apache-2.0 */
/*
 * order.h: keeps a communicator's operations on CUDA streams in the order of its calls, whatever streams they are in. Needs no CUDA
 * toolkit (absent.c).
 */
#ifndef CUDA_ORDER_H
#define CUDA_ORDER_H

#include "cuda/cuda.h"

struct cuda_device;
struct cuda_order;

enum choir_status cuda_order_open(const struct cuda_device *device, struct cuda_order **order);
/* What is put into `stream` now runs after the operation before, if that is in another stream; then, once it is there: it is the last. Of
 * two operations both or neither are to be in one capture: what replays of graphs and other calls do is ordered by the program. */
enum choir_status cuda_order_before(struct cuda_order *o, struct CUstream_st *stream);
enum choir_status cuda_order_after(struct cuda_order *o, struct CUstream_st *stream);
void cuda_order_close(struct cuda_order *o); /* NULL: nothing to do */

#endif
