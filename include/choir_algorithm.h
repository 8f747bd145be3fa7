/* SPDX-License-Identifier: Apache-2.0 */
/*
 * choir_algorithm.h: what the author of a collective algorithm needs.
 *
 * An algorithm is a pure function: it is told a shape (which collective, which rank, how many ranks on
 * which hosts) and writes a plan with a builder. It sees no socket, no pointer to user data, no clock.
 * The plan is data: the verifier proves it, the simulator prices it, the engines run it.
 * CONTRIBUTING.md walks through algorithms/ring.c line by line.
 */
#ifndef CHOIR_ALGORITHM_H
#define CHOIR_ALGORITHM_H

#include "choir.h"
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CHOIR_ALGORITHM_ABI 1

/*
 * The collectives, and what their buffers hold. N ranks, c = count, in elements.
 *
 *   kind               IN                         OUT                         in place means
 *   ALL_REDUCE         c                          c                           OUT = IN
 *   REDUCE             c                          c, at the root only         root: OUT = IN
 *   BROADCAST          c, at the root only        c                           root: OUT = IN
 *   ALL_GATHER         c                          N*c, rank order             IN = OUT + rank*c
 *   REDUCE_SCATTER     N*c, rank order            c                           OUT = IN + rank*c
 *   ALL_TO_ALL         N*c, by destination        N*c, by source              OUT = IN
 *   GATHER             c                          N*c, at the root only       root: IN = OUT + rank*c
 *   SCATTER            N*c, at the root only      c                           root: OUT = IN + rank*c
 *   BARRIER            nothing                    nothing                     -
 *   *_V                as above with per-rank counts and offsets (TABLE cuts); in_count, out_count ... of
 *                      the shape; all_gather_v and reduce_scatter_v know all counts on all ranks, gather_v
 *                      and scatter_v know all at the root and their own elsewhere, all_to_all_v its own row
 *                      and column only; unless the ranks exchanged them before: all_counts of the shape.
 *   EXCHANGE           sends of this rank         receives of this rank       not legal
 *                      (a group of choir_send and choir_recv; parts are the calls, peers in shape->peer)
 */
enum choir_kind {
    CHOIR_ALL_REDUCE,
    CHOIR_REDUCE,
    CHOIR_BROADCAST,
    CHOIR_ALL_GATHER,
    CHOIR_REDUCE_SCATTER,
    CHOIR_ALL_TO_ALL,
    CHOIR_GATHER,
    CHOIR_SCATTER,
    CHOIR_BARRIER,
    CHOIR_ALL_GATHER_V,
    CHOIR_REDUCE_SCATTER_V,
    CHOIR_ALL_TO_ALL_V,
    CHOIR_GATHER_V,
    CHOIR_SCATTER_V,
    CHOIR_EXCHANGE,
    CHOIR_KINDS
};

enum choir_buffer { CHOIR_IN, CHOIR_OUT, CHOIR_TMP };

/* ------------------------------------------------------------------------------------------------
 * The plan
 * ---------------------------------------------------------------------------------------------- */

/*
 * How IN or OUT is divided into parts. EVEN: `count` elements in all, every part ceil(count / parts)
 * rounded up to `quantum` elements, the last ones shorter or empty. BLOCKS: every part `count` elements.
 * TABLE: part p is len[p] elements at element off[p]. Buffers that may alias have identical cuts of the
 * bytes they share. TMP has a TABLE or none.
 */
enum choir_cut_how { CHOIR_EVEN, CHOIR_BLOCKS, CHOIR_TABLE };
struct choir_cut {
    uint32_t how, parts;
    uint64_t count, quantum;
    const uint64_t *off, *len;
};

/*
 * One source or destination of a step: local bytes of a buffer (peer < 0), or a message to or from `peer`
 * that is as long as the span of IN or OUT it names (of TMP only if that has a table).
 *
 * The span, at iteration t of the enclosing loop, is the parts, packed in this order,
 *     (p + turn + t*dturn) mod parts    for p in first + j*stride + [0, run), j = 0, 1, ..., while p < end
 * and with `list` set: plan->list[first .. first+run), each + turn + t*dturn mod parts (stride and end are
 * then unused). The peer is (peer + t*dpeer) mod size. Fields left 0 get: run 1, stride run, end first+run.
 */
struct choir_place {
    int32_t peer;
    uint8_t buf;
    uint8_t list;
    uint32_t first, run, stride, end;
    int32_t turn;
    int32_t dpeer, dturn;
};

/*
 * outs = combine(ins, in this order), rounded once; with one in: a copy. The lengths of a step are those
 * of its first IN, OUT or message place, part by part; the other IN, OUT and message places have the same
 * list of lengths, TMP places adopt it unless TMP has a table. body > 0: this and the next body-1 steps are repeated `times` times
 * (a loop; loops do not nest). A step receives at most one message from a peer and sends at most one to a
 * peer, none to its own rank; it never writes IN; where it reads what it writes, both are the same span.
 */
struct choir_step {
    uint32_t place; /* index of the first in; ins come first, then outs */
    uint16_t ins, outs;
    uint32_t body, times;
};

/*
 * What one rank does for one collective. Instance i runs program i mod programs on piece i of every part:
 * of a part of length L the elements [L*i/I, L*(i+1)/I), I = instances. `window` instances are live at a time, each
 * with its own TMP, undefined at its start; instance i+window starts when i has ended on this rank.
 * TMP has `tmp` parts, each as large as the largest piece of any part of IN or OUT, or as its table says.
 * `slot` is the most elements one fragment of a message carries; a message out of a step that combines
 * or forwards (a "computed" message) fits one slot; see choir_computed. See DESIGN.md "order of execution".
 */
struct choir_plan {
    uint32_t abi, kind, rank, size;
    struct choir_cut cut[3];
    uint32_t tmp;
    uint32_t programs, instances, window, depth;
    uint64_t slot;
    const uint32_t *begin; /* programs + 1: first step of each program, and the end */
    const struct choir_step *step;
    const struct choir_place *place;
    const uint32_t *list;
    uint32_t steps, places, lists;
};

/* ------------------------------------------------------------------------------------------------
 * What an algorithm is told
 * ---------------------------------------------------------------------------------------------- */

/* Which ranks share a host. Hosts are numbered by their lowest rank; members of a host ascend. */
struct choir_layout {
    uint32_t ranks, hosts;
    const uint32_t *host_of;  /* [ranks] */
    const uint32_t *local_of; /* [ranks] index of the rank among the members of its host */
    const uint32_t *begin;    /* [hosts + 1] where host h's members begin in member */
    const uint32_t *member;   /* [ranks] */
};

struct choir_shape {
    uint32_t bytes; /* sizeof(struct choir_shape) */
    uint32_t kind, rank, ranks, root;
    uint32_t type_bytes; /* bytes of one element */
    uint64_t count;
    /* V-forms and EXCHANGE: counts and offsets in elements, or NULL. For EXCHANGE sends parts of IN (to
     * in_peer[i]) and receives parts of OUT (from out_peer[i]); both lists in the caller's order. */
    uint32_t in_parts, out_parts;
    const uint64_t *in_count, *in_offset, *out_count, *out_offset;
    const uint32_t *in_peer, *out_peer;
    /* Where the ranks exchanged their counts beforehand, else NULL: ALL_TO_ALL_V: [ranks * ranks], what r sends to
     * q at r * ranks + q; GATHER_V and SCATTER_V: [ranks], every rank's own. */
    const uint64_t *all_counts;
    const struct choir_layout *layout; /* never NULL */
    const char *args;       /* what stood in parentheses behind the algorithm's name, or "" */
    uint64_t slot_bytes;    /* the largest fragment the engine's slots hold */
    uint32_t depth, window; /* slots per peer; instances that may be live at a time */
};

struct choir_builder;

/* CHOIR_ORDERED: every rank's result is the combination of ranks 0..N-1 in ascending order, so the
 * algorithm may be used with operations that do not commute. The verifier checks the claim.
 * CHOIR_BETWEEN_HOSTS: made to save messages over a network; on one host it is used only where nothing else is for the
 * shape, or asked for. */
enum choir_algorithm_flags { CHOIR_ORDERED = 1, CHOIR_BETWEEN_HOSTS = 2 };

struct choir_algorithm {
    uint32_t bytes, abi;
    const char *name;    /* "ring"; letters, digits and '_' */
    const char *summary; /* one line: steps and bytes per rank, source */
    uint32_t kinds;      /* bit mask: 1u << enum choir_kind */
    uint32_t flags;
    /* Space-separated argument lists worth trying beside the bare name: "ring,tree ring,pat"; "": none. */
    const char *variants;
    /* Writes the plan of shape->rank. Any rank count from 1, any count from 0. Returns CHOIR_OK, or
     * CHOIR_ERR_UNSUPPORTED where this shape is not for this algorithm (on all ranks alike; choir_unsupported). */
    enum choir_status (*build)(const struct choir_shape *shape, struct choir_builder *b);
};

/* An out-of-tree algorithm is a shared object that exports this NULL-terminated list; load it with
 * CHOIR_ALGO_PLUGINS=/path/lib.so[:...]. The symbol's name carries the ABI. */
#define CHOIR_ALGORITHM_SYMBOL "choir_algorithms_abi1"

/* ------------------------------------------------------------------------------------------------
 * The builder. Errors are sticky: call on, choir_builder_status tells at the end.
 * Default cuts, made from the shape: one part per block of the table at enum choir_kind (IN of ALL_GATHER is
 * one BLOCKS part, OUT N BLOCKS parts ...); reductions and BROADCAST: one EVEN part; TABLE for v-forms.
 *
 * Of every function below: b: the builder that build() was given. Ordering: local; called from build() only.
 * Threads: one, that of build(). Errors: sticky, reported by choir_builder_status and by who called build().
 * Cost: host memory for what is stored, no communication. Source: DESIGN.md. Since: 0.1.
 * ---------------------------------------------------------------------------------------------- */

/* Cuts IN and OUT of a collective whose buffers alias (ALL_REDUCE, REDUCE, BROADCAST).
 * parts: at least 1, the same on all ranks. */
CHOIR_API void choir_cut_even(struct choir_builder *b, uint32_t parts);
/* Cuts every block of a buffer of blocks (all_gather's OUT ...) and the matching single block into k
 * sub-blocks: part p*k + j is sub-block j of block p. For v-forms each length is cut by itself.
 * k: at least 1, the same on all ranks. */
CHOIR_API void choir_cut_blocks(struct choir_builder *b, uint32_t k);
/* Asks for scratch memory.
 * parts: how many parts TMP has. */
CHOIR_API void choir_tmp(struct choir_builder *b, uint32_t parts);
/* Asks for scratch memory whose parts are of given lengths, so that messages can be measured by it. Only where one
 * instance does all (ALL_TO_ALL_V, GATHER_V, SCATTER_V); sub-plans spliced in have no scratch of their own.
 * parts: how many parts TMP has. len: their lengths in elements, copied; they lie one after another. */
CHOIR_API void choir_tmp_table(struct choir_builder *b, uint32_t parts, const uint64_t *len);
/* Asks that no piece of a part be long, so that instances overlap.
 * bytes: the most, the same on all ranks. */
CHOIR_API void choir_piece(struct choir_builder *b, uint64_t bytes);
/* States how long computed messages are. Instances are cut so small that so many pieces fit one slot.
 * parts: the most parts that a computed message of ANY rank of this collective spans, the same on all ranks (unless
 * called: 1); 0: no rank computes messages (all of them come from steps whose only in is local), so parts need not be
 * cut for slots. */
CHOIR_API void choir_computed(struct choir_builder *b, uint32_t parts);
/* The step outs = combine(ins), in this order; places are copied.
 * nins, ins, nouts, outs: at least one of each. */
CHOIR_API void choir_step(struct choir_builder *b, uint32_t nins, const struct choir_place *ins,
                          uint32_t nouts, const struct choir_place *outs);
/* Repeats the last steps.
 * body: how many steps. times: how often they run in all; 0 removes them. */
CHOIR_API void choir_loop(struct choir_builder *b, uint32_t body, uint32_t times);
/* Ends the present program and begins the next. */
CHOIR_API void choir_next_program(struct choir_builder *b);
/* Stores part numbers; a place with .list = 1, .first = the value returned, .run = n names them.
 * n: how many. parts: the numbers, copied. */
CHOIR_API uint32_t choir_list(struct choir_builder *b, uint32_t n, const uint32_t *parts);
/* Says why this shape is not for the algorithm. Returns CHOIR_ERR_UNSUPPORTED, for build() to return (on all ranks alike).
 * why: what is missing, a line of text; copied. */
CHOIR_API enum choir_status choir_unsupported(struct choir_builder *b, const char *why);
/* The first error of the functions above, or CHOIR_OK. */
CHOIR_API enum choir_status choir_builder_status(const struct choir_builder *b);

/*
 * Composition: builds `algorithm` ("ring", "tree(trees=1)") for the `n` ranks in `group` (this rank is one of
 * them) as if they were a communicator of n ranks, and appends its steps to the present program: loops
 * unrolled, ranks, buffers and parts renamed. Program i takes the sub-plan's program i mod its programs, so
 * that a plan with as many programs as its sub-plans runs them side by side. Scratch of the sub-plan is TMP
 * from part `tmp` on; one splice may reuse another's.
 *  A map says what the sub-plan's IN or OUT is here. Block q of it (q = 0 where the sub-collective has one
 * block, or a vector) is the parts part[begin[q]] .. part[begin[q + 1] - 1] of buffer `buf`; a sub-plan that
 * cuts finer divides these among its own parts. Where buf is TMP, measure[] are parts of IN, OUT or a TMP
 * with a table (`measure_buf`) of the same lengths, by which messages are measured. Blocks may be empty, and differ in
 * parts if the sub-collective is a v-form; what is empty is left out. The maps of all ranks of the group fit
 * together as buffers of that collective do.
 */
struct choir_map {
    uint8_t buf, measure_buf;
    const uint32_t *begin; /* [blocks + 1] */
    const uint32_t *part, *measure;
};
struct choir_splice {
    const char *algorithm;
    uint32_t kind, root; /* root: index in group */
    uint32_t n;
    const uint32_t *group;
    struct choir_map map[2]; /* of the sub-plan's IN and OUT */
    uint32_t tmp;
};
/* Appends such a sub-plan.
 * s: what, for whom and where; copied. */
CHOIR_API void choir_splice(struct choir_builder *b, const struct choir_splice *s);
/* What that sub-plan would need, whichever rank it is of: so many programs; a cut of each block into a
 * multiple of `parts` parts; choir_computed and choir_piece (0: any) in parts of this plan.
 * CHOIR_ERR_UNSUPPORTED if there is none; no error of the builder. */
struct choir_needs {
    uint32_t programs, parts, computed;
    uint64_t piece_bytes;
};
/* Asks before splicing. s: as for choir_splice; only the maps' begin are looked at. needs: receives the answer. */
CHOIR_API enum choir_status choir_splice_needs(const struct choir_builder *b,
                                               const struct choir_splice *s,
                                               struct choir_needs *needs);

#define CHOIR_LOCAL(...) ((struct choir_place){.peer = -1, __VA_ARGS__})
#define CHOIR_MESSAGE(p, ...) ((struct choir_place){.peer = (int32_t)(p), __VA_ARGS__})
/* CHOIR_STEP(b, PLACES(in, in), PLACES(out)) */
#define CHOIR_PLACES(...)                                                                          \
    (uint32_t)(sizeof((struct choir_place[]){__VA_ARGS__}) / sizeof(struct choir_place)),          \
        (struct choir_place[])                                                                     \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }
#define CHOIR_STEP(b, ...) choir_step(b, __VA_ARGS__)

#ifdef __cplusplus
}
#endif
#endif
