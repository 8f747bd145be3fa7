/* SPDX-License-Identifier: Apache-2.0 */
/*
 * traffic.h: who sends how much to whom in alltoallv_perf. As in nccl-tests: by distance (NCCL_TESTS_ALLTOALLV_SPREAD
 * 0 even, 1 by distance), or from a file of bytes per pair (NCCL_TESTS_ALLTOALLV_MATRIX_FILE, ..._SCALE).
 */
#ifndef PERF_TRAFFIC_H
#define PERF_TRAFFIC_H

#include <stdbool.h>
#include <stdint.h>

struct traffic {
    double spread, scale;
    uint64_t *bytes; /* NULL: by distance; else dim x dim, row sends to column */
    uint32_t dim;
    bool summary; /* NCCL_TESTS_ALLTOALLV_PRINT_SUMMARY */
};
/* From the environment; false: a reason was printed where `print`. */
bool traffic_load(struct traffic *t, uint32_t ranks, bool print);
/* Text of a square matrix of numbers. false: *why says what is wrong. */
bool traffic_parse(struct traffic *t, const char *text, char *why, uint32_t why_bytes);
void traffic_free(struct traffic *t);
/* Elements from rank `from` to rank `to`; total: elements that a rank sends in all, where by distance. */
uint64_t traffic_count(const struct traffic *t, uint32_t from, uint32_t to, uint32_t ranks,
                       uint64_t total, uint32_t type_bytes);
/* Sums over a row, a column. */
uint64_t traffic_sent(const struct traffic *t, uint32_t rank, uint32_t ranks, uint64_t total,
                      uint32_t type_bytes);
uint64_t traffic_received(const struct traffic *t, uint32_t rank, uint32_t ranks, uint64_t total,
                          uint32_t type_bytes);

#endif
