/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nccl_load.c: finds libnccl.so.2, and says what its types and operations are called here.
 */
#include "perf/lib/nccl.h"
#include "base/base.h"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIBRARY "libnccl.so.2"

static bool fill(struct nccl *n, void *library, const char *program)
{
    static const struct {
        const char *symbol;
        size_t at;
        bool needed;
    } row[] = {
#define NCCL_ROW(member, symbol, needed, parameters)                                               \
    {symbol, offsetof(struct nccl, member), needed},
        NCCL_LIST(NCCL_ROW){"ncclGetErrorString", offsetof(struct nccl, error_string), true},
        {"ncclGetLastError", offsetof(struct nccl, last_error), true}};
    for (size_t i = 0; i < base_count(row); i++) {
        void *f = dlsym(library, row[i].symbol);
        if (!f && row[i].needed) {
            fprintf(stderr, "%s: --vs nccl: " LIBRARY " is too old: it has no %s\n", program,
                    row[i].symbol);
            return false;
        }
        memcpy((char *)n + row[i].at, &f, sizeof(f));
    }
    return true;
}

bool nccl_load(struct nccl *n, const char *program)
{
    char path[4096];
    const char *named = getenv("CHOIR_NCCL_LIBRARY");
    snprintf(path, sizeof(path), "%s", named && *named ? named : LIBRARY);
    unsetenv("CHOIR_NCCL_LIBRARY");     /* ours, not the library's: it would call it unknown */
    setenv("NCCL_NVLS_ENABLE", "0", 1); /* Choir does not use the switch's multicast, either */
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr,
                "%s: --vs nccl: %s; CHOIR_NCCL_LIBRARY names the file (Python's package has it as "
                "nvidia/nccl/lib/" LIBRARY ")\n",
                program, dlerror());
        return false;
    }
    return fill(n, library, program);
}

bool nccl_type(unsigned type, int *out)
{
    static const struct {
        unsigned type;
        int nccl;
    } types[] = {{CHOIR_INT8, 0},     {CHOIR_UINT8, 1},        {CHOIR_INT32, 2},
                 {CHOIR_UINT32, 3},   {CHOIR_INT64, 4},        {CHOIR_UINT64, 5},
                 {CHOIR_FLOAT16, 6},  {CHOIR_FLOAT32, 7},      {CHOIR_FLOAT64, 8},
                 {CHOIR_BFLOAT16, 9}, {CHOIR_FLOAT8_E4M3, 10}, {CHOIR_FLOAT8_E5M2, 11}};
    for (size_t i = 0; i < base_count(types); i++)
        if (types[i].type == type) {
            *out = types[i].nccl;
            return true;
        }
    return false;
}

bool nccl_op(unsigned op, int *out)
{
    static const unsigned ops[] = {CHOIR_SUM, CHOIR_PROD, CHOIR_MAX, CHOIR_MIN, CHOIR_AVG};
    for (size_t i = 0; i < base_count(ops); i++)
        if (ops[i] == op) {
            *out = (int)i;
            return true;
        }
    return false;
}
