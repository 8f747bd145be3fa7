/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tuning.c: the key of a kind of machine, and a tuning as text:
 *   choir tuning 1
 *   key k0123456789abcdef ranks 2 gpus 2 cuda 12 gpu NVIDIA_H100
 *   alpha NS overhead NS beta NS rank_beta NS step NS          as in a cluster (cluster.c)
 *   measured 1 peers 8 bytes 2610 ns                           any number of lines
 *   end h0123456789abcdef                                      a hash of all before
 */
#include "plan/tuning.h"
#include "plan/scan.h"
#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define HASH_SEED 0x74756e65u

uint64_t plan_tuning_key(const struct tuning_facts *f)
{
    uint64_t words[] = {TUNING_FORMAT, f->ranks, f->cuda};
    uint64_t h = base_hash(words, sizeof(words), HASH_SEED);
    h = base_hash(f->gpu, f->ranks * sizeof(*f->gpu), h);
    h = base_hash(f->place, f->ranks * sizeof(*f->place), h);
    for (uint32_t a = 0; a < f->ranks; a++)
        for (uint32_t b = a + 1; b < f->ranks; b++)
            h = base_hash(&f->link[a][b], sizeof(f->link[a][b]), h);
    return h;
}

void plan_tuning_name(const char *gpu, char name[TUNING_GPU])
{
    size_t n = 0;
    if (!isalpha((unsigned char)*gpu))
        name[n++] = '_'; /* a word begins with a letter */
    for (; *gpu && n + 1 < TUNING_GPU; gpu++)
        name[n++] = isalnum((unsigned char)*gpu) ? *gpu : '_';
    name[n] = 0;
}

/* --- numbers -------------------------------------------------------------------------------------- */

void plan_tuning_number(double v, char text[TUNING_NUMBER])
{
    int e = v > 0 ? (int)floor(log10(v)) - 3 : 0;
    uint64_t unit = 1, m;
    if (!(v > 0)) {
        snprintf(text, TUNING_NUMBER, "0");
        return;
    }
    e = base_max(base_min(e, 12), -15);
    m = (uint64_t)llround(v * pow(10, -e));
    for (; e > 0; e--)
        m *= 10;
    for (; e < 0 && m % 10 == 0; e++)
        m /= 10;
    for (int i = e; i < 0; i++)
        unit *= 10;
    if (e < 0)
        snprintf(text, TUNING_NUMBER, "%" PRIu64 ".%0*" PRIu64, m / unit, -e, m % unit);
    else
        snprintf(text, TUNING_NUMBER, "%" PRIu64, m);
}

static const struct {
    const char *name;
    size_t offset;
} field[] = {{"alpha", offsetof(struct plan_tuned, alpha_ns)},
             {"overhead", offsetof(struct plan_tuned, overhead_ns)},
             {"beta", offsetof(struct plan_tuned, beta_ns)},
             {"rank_beta", offsetof(struct plan_tuned, rank_beta_ns)},
             {"step", offsetof(struct plan_tuned, step_ns)}};

static double value_of(const struct plan_tuned *c, size_t i)
{
    double v;
    memcpy(&v, (const char *)c + field[i].offset, sizeof(v));
    return v;
}

void plan_tuned_words(const struct plan_tuned *c, char *text, size_t bytes)
{
    size_t n = 0;
    for (size_t i = 0; i < base_count(field) && n < bytes; i++) {
        char number[TUNING_NUMBER];
        plan_tuning_number(value_of(c, i), number);
        n += (size_t)snprintf(text + n, bytes - n, "%s%s %s", i ? " " : "", field[i].name, number);
    }
}

/* --- text ----------------------------------------------------------------------------------------- */

void plan_tuning_dump(const struct tuning *t, char text[TUNING_TEXT])
{
    char words[200], number[TUNING_NUMBER];
    size_t n;
    plan_tuned_words(&t->tuned, words, sizeof(words));
    n = (size_t)snprintf(text, TUNING_TEXT,
                         "choir tuning %u\n"
                         "key k%016" PRIx64 " ranks %u gpus %u cuda %u gpu %s\n"
                         "%s\n",
                         TUNING_FORMAT, t->key, t->ranks, t->gpus, t->cuda, t->gpu, words);
    for (uint32_t i = 0; i < t->timings; i++) {
        const struct tuning_timing *m = &t->timing[i];
        plan_tuning_number(m->ns, number);
        n += (size_t)snprintf(text + n, TUNING_TEXT - n,
                              "measured %u peers %" PRIu64 " bytes %s ns\n", m->peers, m->bytes,
                              number);
    }
    snprintf(text + n, TUNING_TEXT - n, "end h%016" PRIx64 "\n", base_hash(text, n, HASH_SEED));
}

/* A letter and 16 hexadecimal digits. */
static uint64_t read_hash(struct scan *s, const char *what, char letter)
{
    char word[24], *end = word;
    scan_word(s, what, word, sizeof(word));
    uint64_t v = word[0] == letter ? strtoull(word + 1, &end, 16) : 0;
    if (!s->failed && (strlen(word) != 17 || *end || !isxdigit((unsigned char)word[1])))
        scan_fail(s, "%s is \"%s\", not a %c and 16 hexadecimal digits", what, word, letter);
    return v;
}

static void read_head(struct scan *s, struct tuning *t)
{
    scan_expect(s, "choir");
    scan_expect(s, "tuning");
    (void)scan_whole(s, "version of the file", TUNING_FORMAT, TUNING_FORMAT);
    scan_expect(s, "key");
    t->key = read_hash(s, "key", 'k');
    scan_expect(s, "ranks");
    t->ranks = (uint32_t)scan_whole(s, "number of ranks", 2, TUNING_RANKS);
    scan_expect(s, "gpus");
    t->gpus = (uint32_t)scan_whole(s, "number of GPUs", 1, TUNING_RANKS);
    scan_expect(s, "cuda");
    t->cuda = (uint32_t)scan_whole(s, "version of CUDA", 1, 1000);
    scan_expect(s, "gpu");
    scan_word(s, "name of a GPU", t->gpu, sizeof(t->gpu));
}

static void read_constants(struct scan *s, struct plan_tuned *c)
{
    for (size_t i = 0; i < base_count(field); i++) {
        scan_expect(s, field[i].name);
        double v = scan_real(s, field[i].name, 0);
        memcpy((char *)c + field[i].offset, &v, sizeof(v));
    }
}

static void read_timings(struct scan *s, struct tuning *t)
{
    while (scan_take(s, "measured")) {
        struct tuning_timing *m = &t->timing[t->timings];
        if (t->timings == TUNING_TIMINGS) {
            scan_fail(s, "more than %u timings", TUNING_TIMINGS);
            return;
        }
        m->peers = (uint32_t)scan_whole(s, "number of peers", 1, TUNING_RANKS - 1);
        scan_expect(s, "peers");
        m->bytes = scan_whole(s, "bytes of a message", 1, 1ull << 40);
        scan_expect(s, "bytes");
        m->ns = scan_real(s, "time", 0);
        scan_expect(s, "ns");
        t->timings++;
    }
}

enum choir_status plan_tuning_parse(const char *text, struct tuning *out)
{
    struct scan s;
    struct tuning t = {.timings = 0};
    char why[120];
    scan_start(&s, text);
    read_head(&s, &t);
    read_constants(&s, &t.tuned);
    read_timings(&s, &t);
    const char *end = s.begin; /* of what the hash is of */
    scan_expect(&s, "end");
    uint64_t hash = read_hash(&s, "hash", 'h');
    if (!s.failed && s.token != SCAN_END)
        scan_expected(&s, "the end");
    if (!s.failed && hash != base_hash(text, (size_t)(end - text), HASH_SEED))
        scan_fail(&s, "the text is not what was written: its hash is another");
    if (!s.failed && !plan_tuned_sane(&t.tuned, why, sizeof(why)))
        scan_fail(&s, "%s", why);
    if (s.failed)
        return scan_status(&s, "tuning", "remove it, or measure again with CHOIR_TUNE=again");
    *out = t;
    return CHOIR_OK;
}
