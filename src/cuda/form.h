/* SPDX-License-Identifier: Apache-2.0 */
/*
 * form.h: exchanges (abi.h), found in plans. What is found depends on a plan's steps, not on who wrote them; and on one rank's
 * plan: the exchange may only be run if every rank's plan is one, for both ends of a message must move it alike.
 */
#ifndef CUDA_FORM_H
#define CUDA_FORM_H

#include "cuda/abi.h"
#include "plan/plan.h"

/* How many lanes share a message of so many bytes, from 1 to CUDA_LANES. Both its ends ask. */
typedef uint32_t cuda_lanes_fn(uint64_t bytes);

/*
 * True: the plan is one exchange, now in *what: every message out is a part of IN (or of OUT where that is a copy of IN), every
 * part of OUT is combined of messages and of IN, no byte of it twice, nothing goes through TMP; to and from a
 * peer is one message at most. The exchange is legal in place too, in the form that the plan's kind has.
 * elem: bytes of an element.
 */
bool cuda_form_exchange(const struct choir_plan *plan, uint32_t elem, cuda_lanes_fn *lanes_of,
                        struct cuda_exchange *what);
/*
 * The same of a group of sends and receives (kind EXCHANGE), where several messages may go between two ranks: the j-th from one
 * to the other is in round[j] at both. Returns how many rounds there are, at most `most`; 0: not so.
 */
uint32_t cuda_form_rounds(const struct choir_plan *plan, uint32_t elem, cuda_lanes_fn *lanes_of,
                          struct cuda_exchange *round, uint32_t most);
/*
 * What moves at most `limit_bytes` a message, and the rest: two exchanges, each without anything if its lanes are 0. A result
 * goes where its messages go. In place, too, they may run one after the other in this order: what a result overwrites is its own
 * source or a message out of just that length, so of the same one of the two.
 */
void cuda_form_split(const struct cuda_exchange *all, uint32_t elem, uint64_t limit_bytes,
                     struct cuda_exchange *shorter, struct cuda_exchange *longer);

#endif
