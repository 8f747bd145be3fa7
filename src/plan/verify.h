/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verify.h: what the verifier's files share.
 *
 *   verify.c        plan_verify: what plans must be before they run: alike on all ranks, cuts that cover
 *   verify_prove.c  plan_prove: shapes and plans of all ranks
 *   verify_run.c    runs all ranks' plans on symbols
 *   verify_wire.c   messages and channels of such a run, and what is waited for when it gets stuck
 *   verify_order.c  waiting for pending messages before their source is overwritten
 *   verify_result.c what OUT must hold at the end
 *   verify_value.c  symbols: which rank's which part, combined how
 */
#ifndef PLAN_VERIFY_H
#define PLAN_VERIFY_H

#include "plan/builder.h"
#include "plan/plan.h"

/* --- symbols (verify_value.c) ------------------------------------------------------------------- */
/* A symbol stands for the contents of a part: 0 nothing was written, 1 + rank*parts + part an input, above
 * these a combination. Equal combinations (of equal symbols in equal order) are one symbol, so symbols are
 * equal where association trees are. */
typedef uint32_t symbol;
struct value_node {
    uint64_t mass; /* ranks contributing: bits up to 64 ranks, else the sum of their fingerprints */
    uint32_t part; /* of IN, on every contributing rank */
    uint32_t lo, hi;       /* the ranks in ascending order are [lo, hi), or hi is 0 */
    uint32_t first, count; /* operands, in values.operand */
};
struct values {
    uint32_t ranks, parts; /* parts: of IN on the rank that has most */
    uint64_t *fingerprint; /* [ranks] */
    uint64_t full;         /* mass of all ranks */
    struct value_node *node;
    uint32_t nodes, nodes_room;
    symbol *operand;
    uint32_t operands, operands_room;
    uint32_t *bucket; /* node index + 1 by hash; buckets is a power of two */
    uint32_t buckets;
};
bool values_init(struct values *v, uint32_t ranks, uint32_t parts, uint64_t seed);
void values_free(struct values *v);
static inline symbol value_input(const struct values *v, uint32_t rank, uint32_t part)
{
    return 1 + rank * v->parts + part;
}
struct value_node value_get(const struct values *v, symbol s); /* s is not 0 */
/* The combination of n symbols, or 0 and why it cannot be right in *error. */
symbol value_combine(struct values *v, const symbol *in, uint32_t n, const char **error);

/* --- a run --------------------------------------------------------------------------------------- */
enum verify_alias { VERIFY_APART, VERIFY_IN_PLACE, VERIFY_SOME };
struct verify_schedule {
    enum verify_alias alias;
    uint64_t seed; /* also: order of progress */
};

/* One collective; a run is a sequence of them on the same channels. */
struct verify_op {
    const struct choir_plan *const *plan; /* [n] */
    const struct choir_shape *shape;      /* [n] */
    bool ordered;
    uint32_t lanes, limit; /* lanes and instances (below limit) that are run */
    /* Of the present run: */
    struct values values;
    symbol *result; /* [limit * parts of OUT]: ALL_REDUCE, the first rank's symbols */
};

struct verify_lane;
struct verify_message {
    struct verify_message *next;            /* in the channel */
    struct verify_message *older, *younger; /* pendings of the sender's lane */
    struct verify_lane *from;
    uint32_t op, instance, holders;
    bool pending;
    uint32_t dst, fragments, sent, taken, parts, epoch;
    uint64_t count;                    /* elements */
    const struct choir_place *measure; /* the message's place in the sender's plan ... */
    const struct choir_place *source;  /* ... and what a pending reads */
    uint32_t iter;
    uint64_t *known;  /* BARRIER: ranks the sender had heard from */
    symbol symbols[]; /* [parts] */
};

struct verify_channel {
    uint64_t key;
    struct verify_message *head, *tail,
        *unsent; /* unsent: first slotted one with fragments to send */
    uint32_t slots_used;
};

/* How IN and OUT of a rank overlap: IN part in_first + i is OUT part out_first + i, i < parts. */
struct verify_overlap {
    uint32_t in_first, out_first, parts;
};

/* Pendings that read a cell: how many, and their addresses combined by exclusive or, so that one stands
 * by itself. */
struct verify_readers {
    uintptr_t all;
    uint32_t count;
};
struct verify_conflict { /* a pending that the step overwrites; same: the identical span */
    struct verify_message *message;
    bool same;
};

struct verify_lane {
    uint32_t rank, index, instance;
    bool live, in_step, staged, queued;
    struct plan_cursor cursor;
    const struct choir_step *step;
    const struct choir_place *place; /* of the step */
    uint32_t parts, fragment, fragments,
        ready; /* ready: places of the step that need not be awaited any more */
    uint64_t count;
    symbol *stage; /* what the step writes ... */
    uint64_t
        *stage_length; /* ... and how many elements of it: a part of TMP may hold less than fits */
    uint32_t stage_room;
    struct verify_message *oldest, *youngest; /* pendings that have not passed */
    /* Cells: OUT's parts, then TMP's. Of a part of IN that OUT overlaps, the cell is OUT's. */
    symbol *cell;
    uint64_t *length; /* elements written; only TMP's are looked at */
    struct verify_readers *readers;
    struct verify_conflict *conflict; /* of the present step, if known */
    uint32_t conflicts, conflicts_room;
    bool conflicts_known;
    uint64_t *known; /* BARRIER */
};

struct verify_rank {
    const struct choir_plan *plan; /* of the present op */
    const struct choir_shape *shape;
    uint32_t op, live; /* lanes at work */
    uint32_t cells;
    struct verify_overlap overlap;
    uint64_t *known; /* BARRIER: heard from by all instances that ended */
};

struct verify_run {
    struct verify_op *op;
    uint32_t ops, n, window;
    struct verify_schedule how;
    struct verify_rank *rank;
    struct verify_lane *lane; /* [n * window] */
    uint32_t *queue, queue_first, queue_count;
    uint64_t random;
    struct verify_channel *channel; /* open addressing; key 0 is free */
    uint32_t channels, channels_room;
    symbol *in; /* scratch: operands of a step, part by part */
    uint64_t in_room;
    uint32_t *mark, *mark_index, epoch; /* scratch for overlaps, by cell */
    uint32_t known_words;
    struct plan_verdict *verdict;
    bool failed;
};

#define VERIFY_NO_CELL UINT32_MAX
#define VERIFY_DEPTH 2 /* slots of a lane towards a peer: the least that an engine may offer */

bool verify_fail(struct verify_run *run, const struct verify_lane *lane, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Runs the ops to their end under one schedule; true if everything holds. */
bool verify_play(struct verify_op *op, uint32_t ops, uint32_t n, const struct verify_schedule *how,
                 struct plan_verdict *verdict);
void verify_wake(struct verify_run *run, uint32_t rank, uint32_t index);
uint32_t verify_cell(const struct verify_run *run, const struct verify_lane *lane, unsigned buf,
                     uint32_t part);

/* --- verify_result.c: what the collective means -------------------------------------------------- */
bool verify_result_init(struct verify_run *run, struct verify_op *op);
/* Does OUT of an instance that ended hold what it should? */
bool verify_result(struct verify_run *run, struct verify_lane *lane);

/* --- verify_wire.c ------------------------------------------------------------------------------- */
struct verify_channel *verify_channel(struct verify_run *run, uint32_t src, uint32_t dst,
                                      uint32_t index);
/* Appends the staged symbols (computed) or those of the step's source (pending) as a message of `place`. */
bool verify_send(struct verify_run *run, struct verify_lane *lane, const struct choir_place *place,
                 bool pending);
/* The message that in `place` waits for once the lane's present fragment of it is there, else NULL. */
struct verify_message *verify_arrived(struct verify_run *run, struct verify_lane *lane,
                                      const struct choir_place *place);
void verify_take(struct verify_run *run, struct verify_lane *lane, struct verify_message *m);
bool verify_room(const struct verify_channel *c);
void verify_drop(struct verify_message *m, uint32_t holders); /* fewer */
void verify_messages_free(struct verify_run *run);
/* Nothing can move: says who waits for whom. */
void verify_explain(struct verify_run *run);
/* All have ended: no message may be left. */
void verify_leftover(struct verify_run *run);

/* --- verify_order.c ------------------------------------------------------------------------------ */
/* May elements up to `hi` of the step's local outs be written: have pendings under them passed? */
bool verify_may_write(struct verify_run *run, struct verify_lane *lane, uint64_t hi,
                      const struct verify_message **blocking);
bool verify_self_copy(const struct verify_run *run, const struct verify_lane *lane,
                      const struct choir_place *out);
void verify_forget_conflicts(struct verify_lane *lane); /* the step is done */

#endif
