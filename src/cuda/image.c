/* SPDX-License-Identifier: Apache-2.0 */
/* image.c: the table of compiled kernels, which src/cuda/kernel/embed makes as assembler text. */
#include "cuda/cuda.h"

extern const struct cuda_image cuda_images[]; /* the last has no name */
extern const char cuda_image_archs_text[];

const struct cuda_image *cuda_image_at(uint32_t index)
{
    return cuda_images[index].name ? &cuda_images[index] : NULL;
}

const char *cuda_image_archs(void)
{
    return cuda_image_archs_text;
}
