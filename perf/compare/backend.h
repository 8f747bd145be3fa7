/* SPDX-License-Identifier: Apache-2.0 */
/*
 * backend.h: between the timing driver (driver.c) and one communication library; a back end per library.
 *
 * `block` is the number of floats in one rank's block, n the number of ranks. In place, in is NULL.
 *   ALL_REDUCE      in[block*n] -> out[block*n]
 *   ALL_GATHER      in[block] -> out[block*n]; in place the own block lies at out + rank*block
 *   ALL_TO_ALL      in[block*n] -> out[block*n]
 *   REDUCE_SCATTER  in[block*n] -> out[block]; in place the input is out[block*n]
 */
#ifndef COMPARE_BACKEND_H
#define COMPARE_BACKEND_H

#include <stdbool.h>
#include <stddef.h>

enum collective { ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, ALL_TO_ALL, COLLECTIVES };

const char *backend_name(void);
/* Ends the process with a reason on stderr if the library does not start. */
void backend_open(int *argc, char ***argv, int *rank, int *size);
void backend_close(void);
void backend_barrier(void);
void backend_max(double *values, int count); /* over all ranks, to all */
bool backend_supports(enum collective c, bool in_place);
void backend_run(enum collective c, const float *in, float *out, size_t block);
/* Where an in-place reduce-scatter leaves its result: the own block's place, or the start of the buffer (MPI). */
bool backend_scatters_to_own_block(void);

#endif
