/* SPDX-License-Identifier: Apache-2.0 */
/* plan_tool.h: what the files of choir-plan share: what was asked (args.c), and the answers (price.c,
 * print.c). */
#ifndef TOOLS_PLAN_TOOL_H
#define TOOLS_PLAN_TOOL_H

#include "plan/plan.h"

enum { TOOL_CANDIDATES = 192 };

struct ask {
    int kind;                 /* -1: none given */
    uint64_t bytes, to_bytes; /* of the largest buffer of a rank; to_bytes: the end of a sweep */
    bool has_bytes, here;     /* here: this machine, not a described cluster */
    uint32_t ranks, root, cores, hosts, per_host;
    uint32_t share; /* percent of the bytes that are the root's block of a v-form, or SHARE_EVEN */
    const char *hosts_of, *algorithm, *topo, *tuning, *svg, *load;
    enum choir_type type;
    int dump; /* rank, or one of the below */
    bool verify, list, sweep, json, write_topo, ordered;
    bool gpus;
    uint32_t measured_ranks; /* of a tuning, and whose it is */
    char gpu[64];
    struct choir_layout *layout;
    struct plan_cluster cluster;
};
#define SHARE_EVEN UINT32_MAX
enum { DUMP_NOTHING = -1, DUMP_ALL = -2 };

/* Fills `ask`; on a wrong argument says which and exits with 2; --help prints the usage and exits. */
void ask_read(struct ask *ask, int argc, char **argv);
_Noreturn void ask_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Ends with the thread's error record. */
_Noreturn void ask_fail_record(const char *doing);

/* gpus.c: the cluster of --gpus and --tuning, the shape of its plans; where the constants of any cluster come from. */
void ask_gpus(struct ask *ask);
void shape_gpus(struct choir_shape *shape);
void constants_text(const struct ask *ask, char *text, size_t bytes);

/* What a price is made of: the share by which it grows with each kind of cost, in percent. */
struct shares {
    double latency, messages, cpu, links, shared;
};
struct answer {
    struct choir_shape shape;
    struct plan_candidate list[TOOL_CANDIDATES];
    uint32_t count, chosen, runner_up; /* UINT32_MAX: none */
    struct shares shares;              /* of the chosen */
    const char *choice;                /* what the decision table says, for the size's class */
};
uint64_t shape_bytes(const struct choir_shape *shape);
struct choir_shape shape_for(const struct ask *ask, uint64_t bytes);
void shape_done(struct choir_shape *shape);
void answer_size(const struct ask *ask, struct plan_table *table, uint64_t bytes, struct answer *a);
/* Plans of ranks 0..n-1. Exits if the algorithm is not for the shape. */
struct choir_plan **build_all(const struct choir_shape *shape, const char *algorithm, uint32_t n);

char *size_text(uint64_t bytes, char text[32]);
void print_answer(const struct ask *ask, const struct answer *a);
void print_json(const struct ask *ask, const struct answer *a);
void print_sweep(const struct ask *ask, struct plan_table *table);
void print_algorithms(void);
void print_price(const struct plan_price *price);

#endif
