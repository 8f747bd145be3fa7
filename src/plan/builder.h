/* SPDX-License-Identifier: Apache-2.0 */
/*
 * builder.h: what builder.c, splice.c, finish.c, shape.c and plan loaders share: a plan that is still
 * growing. Private to src/plan.
 */
#ifndef PLAN_BUILDER_H
#define PLAN_BUILDER_H

#include "plan/plan.h"

#define BUILDER_TEXT 256              /* bytes of an algorithm's text, arguments included */
#define BUILDER_PARTS_MOST (1u << 30) /* parts of a buffer: part + turn fits 32 bits */
#define BUILDER_STEPS_MOST (1u << 26) /* steps of a program, loops unrolled */
#define BUILDER_INSTANCES_MOST (1u << 30)

struct builder_vector {
    void *data;
    uint32_t count, room;
};

/* Steps and places lie in order; the places of a step are contiguous, ins first, so dropping the last steps
 * is truncation. Unset fields of places have their defaults; turn, dturn and dpeer are still as given. */
struct choir_builder {
    struct choir_shape shape; /* the caller's, with args pointing to `args` */
    char name[BUILDER_TEXT], args[BUILDER_TEXT];
    enum choir_status status; /* sticky; the record of the thread says why */
    struct choir_cut cut[3];
    uint64_t *table[3]; /* owns off and len of cut[i] where that is a TABLE */
    uint32_t tmp, computed;
    uint64_t piece_bytes;
    struct builder_vector begin; /* uint32_t: first step of each program */
    struct builder_vector step;  /* struct choir_step */
    struct builder_vector place; /* struct choir_place */
    struct builder_vector list;  /* uint32_t */
};

static inline struct choir_step *builder_steps(const struct choir_builder *b)
{
    return b->step.data;
}
static inline struct choir_place *builder_places(const struct choir_builder *b)
{
    return b->place.data;
}
static inline uint32_t *builder_lists(const struct choir_builder *b)
{
    return b->list.data;
}
static inline uint32_t *builder_begins(const struct choir_builder *b)
{
    return b->begin.data;
}

/* An empty plan with the default cuts of `shape`, which is copied (what it points to is not). Free it
 * always. */
enum choir_status builder_init(struct choir_builder *b, const struct choir_shape *shape);
void builder_free(struct choir_builder *b);
/* Notes the first failure: text is about this rank's plan; later ones are ignored. Returns the sticky
 * status. */
enum choir_status builder_fail(struct choir_builder *b, enum choir_status status,
                               const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Finds "name" or "name(args)" and lets it write into b. */
enum choir_status builder_run(struct choir_builder *b, const char *algorithm);
/* Normalises, chooses instances and window, checks, and packs the plan into one allocation. */
enum choir_status builder_finish(struct choir_builder *b, struct choir_plan **plan);
/* Room for `more` further items of `size` bytes at the end; NULL and a sticky error if there is none. */
void *builder_append(struct choir_builder *b, struct builder_vector *v, uint32_t more, size_t size);

/* --- shape.c -------------------------------------------------------------------------------- */
/* What a buffer holds: one piece of data that aliases with the other buffer's, one block, a block per rank,
 * one part per call of a group. */
enum shape_holds { SHAPE_WHOLE, SHAPE_BLOCK, SHAPE_BLOCKS, SHAPE_CALLS };
enum shape_holds shape_holds(const struct choir_shape *shape, unsigned buf);
bool shape_present(const struct choir_shape *shape, unsigned buf); /* on this rank */
bool shape_is_v(const struct choir_shape *shape);                  /* lengths differ by block */
/* Sizes that only the two ends of a message know: one instance, no computed messages. */
bool shape_pair_sized(uint32_t kind);
uint32_t shape_blocks(const struct choir_shape *shape, unsigned buf);
/* Offset and length of every block of a buffer. */
void shape_table(const struct choir_shape *shape, unsigned buf, uint64_t *off, uint64_t *len);
enum choir_status shape_check(const struct choir_shape *shape);
uint64_t shape_quantum(const struct choir_shape *shape); /* elements parts are rounded to */

#endif
