/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share.c: device memory of other processes. A handle says where the file of the memory is found while its owner lives and has
 * not freed it: descriptor `fd` of process `pid`, checked by its inode.
 */
#include "tests/fake_cuda/fake.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC 0x66616b65u

struct handle {
    uint32_t magic;
    int32_t pid, fd, unused;
    uint64_t inode, bytes, mapped;
};
_Static_assert(sizeof(struct handle) <= CU_IPC_HANDLE_SIZE, "it fits the driver's");

FAKE_API CUresult cuIpcGetMemHandle(CUipcMemHandle *out, CUdeviceptr memory)
{
    FAKE_READY();
    struct handle h = {.magic = MAGIC, .pid = getpid()};
    pthread_mutex_lock(&fake_lock);
    const struct fake_memory *m = fake_memory_of((void *)(uintptr_t)memory, 1);
    bool good = m && m->kind == FAKE_DEVICE;
    if (good)
        h.fd = m->fd, h.inode = m->inode, h.bytes = m->bytes, h.mapped = m->mapped;
    pthread_mutex_unlock(&fake_lock);
    if (!good)
        return CUDA_ERROR_INVALID_VALUE;
    memset(out, 0, sizeof(*out));
    memcpy(out, &h, sizeof(h));
    return CUDA_SUCCESS;
}

/* It may be open already: then the same mapping is handed out again. */
static struct fake_memory *opened(const struct handle *h)
{
    for (struct fake_memory *m = fake_memory_first(); m; m = m->next)
        if (m->kind == FAKE_OPENED && m->inode == h->inode)
            return m;
    return NULL;
}

static CUresult map(const struct handle *h, struct fake_memory *m)
{
    char path[64];
    struct stat st;
    snprintf(path, sizeof(path), "/proc/%d/fd/%d", h->pid, h->fd);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return CUDA_ERROR_INVALID_HANDLE;
    bool same = !fstat(fd, &st) && st.st_ino == h->inode;
    m->at = same ? fake_map(fd, h->mapped) : NULL;
    close(fd);
    if (!same)
        return CUDA_ERROR_INVALID_HANDLE;
    return m->at ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

FAKE_API CUresult cuIpcOpenMemHandle(CUdeviceptr *out, CUipcMemHandle handle, unsigned int flags)
{
    FAKE_READY();
    struct handle h;
    memcpy(&h, &handle, sizeof(h));
    CUcontext context = fake_context();
    if (!context)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (flags != CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS || h.magic != MAGIC)
        return CUDA_ERROR_INVALID_VALUE;
    if (h.pid == getpid())
        return CUDA_ERROR_INVALID_CONTEXT;
    CUresult r = fake_unsafe();
    if (r != CUDA_SUCCESS)
        return r;
    struct fake_memory m = {.kind = FAKE_OPENED,
                            .context = context,
                            .bytes = h.bytes,
                            .mapped = h.mapped,
                            .inode = h.inode,
                            .fd = -1,
                            .opens = 1};
    pthread_mutex_lock(&fake_lock);
    struct fake_memory *before = opened(&h);
    if (before) {
        before->opens++;
        m.at = before->at;
    } else if ((r = map(&h, &m)) == CUDA_SUCCESS) {
        fake_memory_add(&m);
    }
    pthread_mutex_unlock(&fake_lock);
    if (r == CUDA_SUCCESS)
        *out = (CUdeviceptr)(uintptr_t)m.at;
    return r;
}

FAKE_API CUresult cuIpcCloseMemHandle(CUdeviceptr memory)
{
    FAKE_READY();
    CUresult r = fake_unsafe();
    if (r != CUDA_SUCCESS)
        return r;
    pthread_mutex_lock(&fake_lock);
    struct fake_memory *m = fake_memory_of((void *)(uintptr_t)memory, 1);
    if (m && m->kind == FAKE_OPENED && m->opens > 1) {
        m->opens--;
        pthread_mutex_unlock(&fake_lock);
        return CUDA_SUCCESS;
    }
    m = fake_memory_take_idle((void *)(uintptr_t)memory, FAKE_OPENED, "cuIpcCloseMemHandle");
    pthread_mutex_unlock(&fake_lock);
    if (!m)
        return CUDA_ERROR_INVALID_VALUE;
    munmap(m->at, m->mapped);
    free(m);
    return CUDA_SUCCESS;
}
