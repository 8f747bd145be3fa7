/* SPDX-License-Identifier: Apache-2.0 */
/*
 * yield_shim.c: LD_PRELOAD for MPICH over UCX where there are more ranks than cores: it spins without yielding and then
 * takes milliseconds per message. Gives the core away when a progress call did nothing.
 */
#include <dlfcn.h>
#include <sched.h>
#include <stddef.h>

unsigned ucp_worker_progress(void *worker);

unsigned ucp_worker_progress(void *worker)
{
    static unsigned (*real)(void *);
    if (!real)
        real = (unsigned (*)(void *))dlsym(RTLD_NEXT, "ucp_worker_progress");
    unsigned did = real(worker);
    if (!did)
        sched_yield();
    return did;
}
