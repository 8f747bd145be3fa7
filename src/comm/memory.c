/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory.c: memory that peers on the host can map, and registration. Nothing here is needed for speed of collectives on
 * host memory; registration is a promise about a range that transports with registration keep. Windows: window.c.
 */
#include "comm/comm.h"
#include <stdlib.h>

struct choir_region {
    struct choir_comm *comm;
    void *memory;
    size_t bytes;
};

enum choir_status choir_mem_alloc(size_t bytes, void **memory)
{
    if (!memory || !bytes)
        return base_fail(memory ? CHOIR_ERR_COUNT : CHOIR_ERR_POINTER,
                         "ask for at least one byte and pass where to put the address", "%s",
                         memory ? "bytes is 0" : "memory is NULL");
    enum choir_status st = host_start();
    if (st != CHOIR_OK)
        return st;
    st = host_shared_alloc(bytes, memory);
    if (st != CHOIR_OK)
        host_stop();
    return st;
}

enum choir_status choir_mem_free(void *memory)
{
    enum choir_status st = memory ? host_shared_free(memory) : CHOIR_OK;
    if (memory && st == CHOIR_OK)
        host_stop();
    return st;
}

enum choir_status choir_register(choir_comm *comm, void *memory, size_t bytes,
                                 choir_region **region)
{
    enum choir_status st = comm_check(comm);
    if (st != CHOIR_OK)
        return st;
    if (!memory || !bytes || !region)
        return comm_fail(comm, CHOIR_ERR_POINTER,
                         "pass a range of memory and where to put the handle", "%s",
                         !region   ? "region is NULL"
                         : !memory ? "memory is NULL"
                                   : "bytes is 0");
    struct choir_region *r = malloc(sizeof(*r));
    if (!r)
        return comm_fail(comm, CHOIR_ERR_NO_MEMORY, "free memory", "no memory for a registration");
    *r = (struct choir_region){comm, memory, bytes};
    *region = r;
    return CHOIR_OK;
}

enum choir_status choir_deregister(choir_comm *comm, choir_region *region)
{
    enum choir_status st = comm_check(comm);
    if (st != CHOIR_OK)
        return st;
    if (!region || region->comm != comm)
        return comm_fail(comm, CHOIR_ERR_POINTER,
                         "pass what choir_register returned for this communicator",
                         "region is not of this communicator");
    free(region);
    return CHOIR_OK;
}
