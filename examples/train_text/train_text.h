/* SPDX-License-Identifier: Apache-2.0 */
/* train_text.h: what the files of the training example share: its flags, the text, the model. */
#ifndef EXAMPLES_TRAIN_TEXT_H
#define EXAMPLES_TRAIN_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BLOCK 16 /* samples that one pass of the model takes */

struct args {
    int local, steps, batch, context, embed, hidden, report, sample;
    float rate;
    uint64_t seed;
    const char *curve, *check, *text;
};
extern struct args args;

/* --- train_text.c --- */
_Noreturn void fail(const char *what);
void *zeroed(size_t count, size_t bytes); /* never NULL */
uint64_t mix(uint64_t a, uint64_t b);     /* a hash of both and the seed */

/* --- text.c: a file, or the sources and documents of the repository --- */
struct text {
    unsigned char *id; /* numbers of its distinct bytes */
    size_t bytes;
    int symbols;
    unsigned char byte_of[256];
};
extern struct text text;
void text_read(void);   /* the bytes, into text.id */
void text_number(void); /* of bytes makes numbers */
/* Where sample i of a step predicts: never in another set's stripe, never before the first context. */
size_t text_position(uint64_t step, uint64_t i, bool held_out);

/* --- model.c: embeddings of the last bytes, two hidden layers with tanh, softmax; Adam --- */
enum { EMBED, W1, B1, W2, B2, W3, B3, PARTS };
/* part p of all parameters lies at [at[p], at[p+1]) */
struct model {
    size_t at[PARTS + 1];
    float *value, *grad, *mean, *square; /* grad: of one block */
    double *sum;                         /* of all blocks, then of all ranks; the loss behind it */
};
extern struct model model;
void model_create(void);
void model_new_step(void); /* before the passes that follow an adam */
/* n contexts that end before the given positions of ids; returns the logits, [n][symbols]. */
float *model_forward(const unsigned char *ids, const size_t *at, size_t n);
/* Of the text, after model_forward: makes logits the gradient of the loss by them; returns the summed loss. */
double model_loss(const size_t *at, size_t n);
void model_backward(const size_t *at, size_t n); /* from there to model.grad */
void model_adam(int step);                       /* model.sum: over the whole batch */

#endif
