/* SPDX-License-Identifier: Apache-2.0 */
/* pair.h: exchanges with one peer, as kernels of their own take them (abi.h). Needs no CUDA toolkit. */
#ifndef CUDA_PAIR_H
#define CUDA_PAIR_H

#include "cuda/abi.h"
#include <stdbool.h>

/*
 * True: the exchange of the call is one with a single peer, now in *pair: a message each way at most, none longer than 2^32
 * elements, a result of the message and one local source at most, and a copy, which is the whole of it or onto itself.
 * lines: its messages travel in flagged lines; else in words. It means the same to the peer, whichever kernel that runs.
 */
bool cuda_pair_of(const struct cuda_exchange_call *call, bool lines, struct cuda_pair_call *pair);
/* Length elements in `lanes` pieces, at most CUDA_LANES. */
struct cuda_pieces cuda_pieces_of(uint64_t length, uint32_t lanes);

#endif
