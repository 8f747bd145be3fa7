/* SPDX-License-Identifier: Apache-2.0 */
/* print.c: the GPUs of this machine in words, for choir-info. Makes no context, so it costs no device memory. */
#include "base/knob.h"
#include "cuda/device.h"
#include <stdio.h>

static void print_gpu(FILE *f, const struct cuda_gpu *g)
{
    char uuid[48];
    cuda_gpu_uuid(g, uuid);
    fprintf(f, "gpu %-2d %s, %s, pci %s, compute capability %d.%d, %d multiprocessors\n",
            g->ordinal, g->name, uuid, g->pci, g->major, g->minor, g->sms);
}

/* A row for each GPU: which others it reads and writes by itself. */
static void print_peers(FILE *f, const struct cuda_driver *cu, const struct cuda_gpu *g, int n)
{
    fprintf(f, "peer access %5s", "");
    for (int k = 0; k < n; k++)
        fprintf(f, " %3d", g[k].ordinal);
    fprintf(f, "\n");
    for (int i = 0; i < n; i++) {
        fprintf(f, "  from gpu %-6d", g[i].ordinal);
        for (int k = 0; k < n; k++) {
            int can = 0;
            CUresult r =
                i == k ? CUDA_SUCCESS : cu->cuDeviceCanAccessPeer(&can, g[i].device, g[k].device);
            fprintf(f, " %3s", i == k ? "-" : r != CUDA_SUCCESS ? "?" : can ? "yes" : "no");
        }
        fprintf(f, "\n");
    }
}

static void print_failure(FILE *f)
{
    const struct choir_error *e = base_error_thread();
    fprintf(f, "no GPU: %s; %s\n", e->text, e->remedy);
}

void cuda_print(void *file)
{
    FILE *f = file;
    struct cuda_gpu gpu[CUDA_DEVICES_MOST];
    int version = 0, n = 0, found = 0;
    const struct cuda_driver *cu = cuda_driver();
    if (!cu || cuda_driver_init() != CHOIR_OK) {
        print_failure(f);
        return;
    }
    CUresult r = cu->cuDriverGetVersion(&version);
    if (r == CUDA_SUCCESS)
        r = cu->cuDeviceGetCount(&n);
    if (r != CUDA_SUCCESS) {
        (void)cuda_fail(r, "counting GPUs");
        print_failure(f);
        return;
    }
    fprintf(f, "CUDA driver %d.%d; kernels built with CUDA_ARCH=\"%s\"\n", version / 1000,
            version % 1000 / 10, cuda_image_archs());
    for (int i = 0; i < n && i < CUDA_DEVICES_MOST; i++)
        if (cuda_gpu_describe(i, &gpu[found]) == CHOIR_OK)
            print_gpu(f, &gpu[found++]);
        else
            print_failure(f);
    if (found > 1)
        print_peers(f, cu, gpu, found);
}
