/* SPDX-License-Identifier: Apache-2.0 */
/* kernels.h: kernels by name, as module.c launches them; C and C++. */
#ifndef FAKE_CUDA_KERNELS_H
#define FAKE_CUDA_KERNELS_H

#include <stdbool.h>
#include <stdint.h>

struct fake_block; /* what the threads of a block share */
struct fake_kernel {
    const char *name;
    unsigned parameters;
    uint16_t bytes[5]; /* of each */
    bool halves;       /* an even number of threads */
    /* Runs block `block` of `blocks`, as thread `thread`. The last of the parameters: the module's word. */
    void (*run)(const void *const *parameters, unsigned block, unsigned blocks, unsigned thread,
                unsigned threads, struct fake_block *shared);
    /* Messages that it sends, and their bytes, as its parameters say; NULL: not known. */
    void (*sends)(const void *const *parameters, uint64_t *messages, uint64_t *bytes);
};
#ifdef __cplusplus
extern "C" {
#endif
const struct fake_kernel *fake_kernel_find(const char *name);
const struct fake_kernel *fake_kernel_at(unsigned i); /* NULL: no more */
struct fake_block *fake_block_create(unsigned threads);
void fake_block_free(struct fake_block *block);
#ifdef __cplusplus
}
#endif

#endif
