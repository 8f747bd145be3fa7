/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tuning.h: the constants of links between GPUs as they were measured, once for each kind of machine: what a kind is, the
 * text that is kept of it, and how constants follow from timings. How timings come about is comm's business
 * (src/comm/tune.c).
 *
 *   tuning.c   the key, the text          tuning_fit.c   constants from timings        tuning_file.c   the files that keep them
 */
#ifndef PLAN_TUNING_H
#define PLAN_TUNING_H

#include "plan/plan.h"

#define TUNING_FORMAT 1u /* of what is measured and of the text: another one is another key */
#define TUNING_RANKS 16u
#define TUNING_TIMINGS 8u
#define TUNING_GPU 64u
#define TUNING_TEXT 2048u /* longer than any */

/* What decides how fast the GPUs of a communicator reach each other. */
struct tuning_facts {
    uint32_t ranks, cuda;                      /* cuda: the driver's version, 12 of 12.8 */
    uint64_t gpu[TUNING_RANKS];                /* what each rank's GPU is */
    uint8_t place[TUNING_RANKS];               /* the first rank that has the same GPU */
    uint64_t link[TUNING_RANKS][TUNING_RANKS]; /* [a][b], a < b: how these two are linked */
};
uint64_t plan_tuning_key(const struct tuning_facts *facts);

/* One exchange of every rank with so many others, `bytes` to and from each: what it took, the slowest rank's median. */
struct tuning_timing {
    uint32_t peers;
    uint64_t bytes;
    double ns;
};
struct tuning {
    uint64_t key;
    uint32_t ranks, gpus, cuda; /* gpus: how many different ones */
    char gpu[TUNING_GPU];       /* rank 0's: letters, digits and _ */
    struct plan_tuned tuned;
    uint32_t timings;
    struct tuning_timing timing[TUNING_TIMINGS];
};
/* A GPU's name as it is in a tuning. */
void plan_tuning_name(const char *gpu, char name[TUNING_GPU]);

/* The text, and back. Its last line has a hash of all before, so that a damaged one is seen. The record says what is wrong. */
void plan_tuning_dump(const struct tuning *t, char text[TUNING_TEXT]);
enum choir_status plan_tuning_parse(const char *text, struct tuning *t);
/* The constants as words of the log: "alpha 700 ns, ...". */
void plan_tuned_words(const struct plan_tuned *c, char *text, size_t bytes);
/* A number with four digits, the same in every locale. */
#define TUNING_NUMBER 40u
void plan_tuning_number(double v, char text[TUNING_NUMBER]);

/* --- tuning_fit.c ------------------------------------------------------------------------------- */
/* The time that these constants predict for an exchange, as the simulator would. */
double plan_tuned_predict(const struct plan_tuned *c, uint32_t peers, uint64_t bytes);
/* Finds the constants that predict the timings. false: they are nonsense, or the constants would be; *why says which. */
bool plan_tuned_fit(const struct tuning_timing *timing, uint32_t timings, struct plan_tuned *c,
                    char *why, size_t bytes);
/* Whether all are near enough to the built-in ones to be believed. */
bool plan_tuned_sane(const struct plan_tuned *c, char *why, size_t bytes);

/* --- tuning_file.c ------------------------------------------------------------------------------ */
/* Where the files are: CHOIR_TUNE_DIR, or choir in the user's cache; false: there is no such place. */
bool plan_tuning_folder(char *path, size_t bytes);
/* The entry of a key; false: there is none. What is wrong with a file is logged. path: [bytes] its name, "" without a folder. */
bool plan_tuning_find(uint64_t key, struct tuning *t, char *path, size_t bytes);
/* Writes the entry, whole or not at all; the record says why it could not. */
enum choir_status plan_tuning_keep(const struct tuning *t, char *path, size_t bytes);
/* A file by name, whatever its key. */
enum choir_status plan_tuning_read(const char *path, struct tuning *t);
/* All sound entries of the folder, in no order. */
void plan_tuning_each(void (*fn)(const struct tuning *t, const char *path, void *arg), void *arg);

#endif
