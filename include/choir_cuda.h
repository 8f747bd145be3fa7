/* SPDX-License-Identifier: Apache-2.0 */
/*
 * choir_cuda.h: collectives on CUDA streams and device memory.
 *
 * It needs no CUDA header, and the library is not linked with CUDA: the driver (libcuda.so.1, 12.0 or newer) is found at run
 * time; where there is none, host calls work as ever. Everything else about the calls is in choir.h.
 *
 * 1. Which communicators have GPUs. A rank has one if its process uses CUDA already when the communicator is created (anything
 * has initialised it): the current one of the thread that creates; ranks may share one (processes take turns of milliseconds
 * on it). How GPU memory goes to other ranks is agreed then, and said in the log at level info:
 *   - Mapped: all ranks have a GPU, are on one host, at most 16, and their GPUs all map each other's memory (CHOIR_CUDA_P2P is
 *     not off). Kernels move the data. Creation takes all memory for messages, 38.4 MiB a rank, on every rank, and 24 MiB for
 *     plans: by cuMemMap, its descriptors passed between processes over unix sockets; or, where a rank cannot
 *     (CHOIR_CUDA_VMM=off or NCCL_CUMEM_ENABLE=0 on it, an older GPU, processes in different network namespaces), by
 *     cudaMalloc and CUDA IPC on all.
 *   - Through the host: everywhere else (several hosts, GPUs that do not reach each other, more ranks, ranks without a GPU). The
 *     stream copies inputs into pinned memory, a thread of the communicator runs the operation there as a host call, over any
 *     transport, and the stream copies outputs back. Collectives go in slices of CHOIR_CUDA_SLICE (4 MiB), copies beside the
 *     network, through 12 MiB of pinned memory; v-forms and groups of messages go whole, through memory that grows to the
 *     longest. Long host calls on such a communicator go in the same slices.
 * What algorithms cost on these GPUs is measured by the first mapped communicator of a kind of machine, some milliseconds of its
 * creation, and kept in a file for the next (CHOIR_TUNE, CHOIR_TUNE_DIR; choir-info --gpus lists them). Rank 0's settings count. On
 * GPUs that are busy with other work meanwhile nothing is kept.
 * On a rank that has no GPU device calls are refused (CHOIR_ERR_UNSUPPORTED). Children (split, shrink, grow) are judged anew.
 * choir_comm_memory tells what is held; CHOIR_CUDA_MEMORY bounds what all communicators of the process hold on a GPU.
 *
 * 2. Which calls are device calls. Those with a CUDA stream, and those without a stream of which a buffer is device memory:
 * they are on the legacy default stream. Collectives, their variable-count forms, send and receive, and groups of them. Mapped,
 * all ranks of an operation make a device call, and host calls on the same communicator go on working, by turns with them.
 * Through the host, device and host calls are the same operation to other ranks: some may have it in GPU memory, some in host
 * memory; and a host call runs after the device calls made before it, for which it waits.
 *   - Buffers are memory of the communicator's GPU or any host memory: mapped, kernels reach what CUDA allocated or registered
 *     itself, other memory is copied by a thread when the stream comes to the call; through the host, the operation reads and
 *     writes host memory where it is. Memory of another GPU or of cudaMallocManaged is refused (CHOIR_ERR_POINTER), device
 *     memory on a stream of choir_stream_create too (CHOIR_ERR_ARGUMENT). The stream is one of the communicator's GPU.
 *   - Operations are those of choir.h; functions of the program through the host only (mapped: CHOIR_ERR_OP). A scaled
 *     operation's scale is read by the call if it is in memory of malloc, else when the operation runs. choir_call.deadline_ns
 *     counts from when the stream has come to the operation through the host, and bounds each wait of a kernel for a peer mapped;
 *     config.restorable has no effect on GPU memory.
 *   - max_blocks (of choir_config, choir_call, or CHOIR_CUDA_BLOCKS) bounds the blocks of kernels, for what computes beside them. It is
 *     this rank's own: what others take may differ.
 *   - With CHOIR_CALL_OVERLAP in choir_call.flags the call runs on a stream of the communicator's own, of CUDA's highest priority
 *     (config.low_priority: lowest), after what its stream has now. The stream goes on beside it until choir_overlap_wait; in a
 *     capture too, which needs that before its end. An operation without the flag comes behind it once its stream has waited so.
 *
 * 3. Order. A device call returns when it is queued. Its result is there, and its buffers may be used again, when the stream
 * has passed it (cudaStreamSynchronize, an event). All ranks queue the operations of a communicator in the same order, and they
 * run in it, whatever streams they are in; different communicators need no order.
 *   - Collectives and messages are ordered so, by an event behind each; one-sided operations by their streams only. Not ordered but
 *     by the program: operations of a capture and those outside it or of another, among each other.
 *   - A kernel waits on its GPU for the kernels of other ranks, or for the host. What holds a GPU up until its kernels have
 *     ended, while one of them waits for a call that the same thread or another rank of the process has still to make,
 *     deadlocks, as it does with any such library: cudaFree, cudaMalloc and cudaDeviceSynchronize are such calls. The first
 *     operation of its kind and size may allocate, once 16 MiB that a communicator has for its plans are used up; through the
 *     host, a v-form or a group longer than all before and than CHOIR_CUDA_SLICE.
 *   - A thread that drives several ranks makes their calls of one operation in one group.
 *
 * 4. Graphs. Device calls may be captured, also the first ones of a communicator. A replay is an operation like others: each
 * rank launches its graph once for each, in the same order among the communicator's operations, and calls on the stream may
 * come between. Through the host each captured call keeps some memory; captured and queued ones are 16384 at most. Capture in
 * relaxed or thread-local mode where other threads of the process create communicators or make graphs meanwhile. The
 * communicator is destroyed after the last replay.
 *
 * 5. Errors. What a call finds wrong it returns. What is found later (a rank makes another call, does not come within
 * config.timeout_ns, dies, aborts) ends the kernels of all ranks, those to come and graphs' too: no stream hangs, and none
 * reports an error. (Through the host a peer is late when it has kept the operation waiting so long, not a stream.) Within
 * some 20 ms choir_comm_status and every call return it, and choir_comm_last_error has the record.
 * Outputs are undefined after a failure: look at the status once the stream has been waited for. The GPU and other
 * communicators go on.
 *   - choir_comm_destroy waits for all that is queued in the GPU's context.
 *   - After fork the child can make no device call, as it can make none of CUDA.
 *
 * 6. Windows. Where GPUs are mapped, a part of a window may be memory of cudaMalloc on the communicator's GPU. All ranks map it
 * when the window is created; choir_window_pointer tells where it is for kernels. Parts in GPU and in host memory may be mixed.
 *   - A put into GPU memory is queued on the CUDA stream (without one on the legacy default stream) as a copy of the copy engine:
 *     no multiprocessor has part in it. It copies GPU memory or host memory that CUDA knows (other: CHOIR_ERR_POINTER).
 *   - Signals raised on a CUDA stream come behind its puts, and are waited for on CUDA streams (choir_stream_from_cuda(0) is the
 *     default one); those of host calls are counted apart. A wait holds the stream up with one thread of one block, for
 *     config.timeout_ns at most. In graphs each replay puts, raises and waits once more.
 *   - Refused: parts that other processes cannot map (of cuMemMap or of a pool), and GPU memory where it goes through the host:
 *     by choir_window_create, on all ranks, with CHOIR_ERR_UNSUPPORTED that names whose; through the host also one-sided calls on
 *     CUDA streams. A put into host memory is a host call, of host memory (else CHOIR_ERR_UNSUPPORTED).
 *   - Parts are unmapped by choir_window_destroy, which may wait for all that runs on the GPU: no kernel waits then for a
 *     call still to be made. Their memory is freed after all ranks have destroyed the window.
 *
 * 7. Suspending. choir_comm_suspend gives all memory of a mapped communicator back, choir_comm_resume takes it again at the same
 * addresses (choir.h): graphs captured before go on working, as do buffers, which are the program's. In between neither
 * device calls (refused) nor graphs with device calls in them (the program's to avoid: cudaErrorIllegalAddress) may be launched.
 * It needs memory by cuMemMap: what CUDA IPC has shared cannot be given back at an address that lasts. 64 KiB for plain host
 * memory stay. Both calls wait for what runs on the device, so the rule of 3 for cudaFree is theirs too.
 * Windows stay as they are, and signals that have come are still there to be waited for; what waits for one has to have ended.
 *
 * Not there yet: access of peers to user buffers (collectives go through the library's memory) and copy engines in
 * collectives; network cards that reach GPU memory; windows in GPU memory through the host. Buffers that
 * cuMemMap has mapped (expandable segments) are untried. NVLink multicast is never used.
 */
#ifndef CHOIR_CUDA_H
#define CHOIR_CUDA_H

#include "choir.h"

#ifdef __cplusplus
extern "C" {
#endif

struct CUstream_st; /* CUstream and cudaStream_t are pointers to it */

/*
 * A CUDA stream as the stream argument of any call of choir.h. Nothing is allocated and nothing has to be freed: the
 * same CUDA stream always gives the same handle.
 * stream: a CUstream or cudaStream_t, also 0 and the handles of the default streams (cudaStreamLegacy,
 *   cudaStreamPerThread). It exists as long as the handle is used. Returns the handle, never NULL.
 *   choir_stream_wait and choir_stream_query of it are cudaStreamSynchronize and cudaStreamQuery;
 *   choir_stream_destroy leaves it as it is; choir events are of host streams only (cudaEventRecord,
 *   cudaStreamWaitEvent).
 * Ordering: local. Threads: any.
 * Errors: none. Of calls with the handle: CHOIR_ERR_UNSUPPORTED there is no CUDA driver, or no kernel of
 *   this library for the device; CHOIR_ERR_FORKED the parent process used CUDA; CHOIR_ERR_SYSTEM an error
 *   of CUDA, named in the record.
 * Cost: none. Source: NCCL's stream arguments. Since: 0.1.
 */
CHOIR_API choir_stream *choir_stream_from_cuda(struct CUstream_st *stream);

/*
 * Has a stream wait for all operations that were called with CHOIR_CALL_OVERLAP so far.
 * comm: a ready communicator. stream: a handle of choir_stream_from_cuda, of the communicator's GPU: what comes into it from now
 *   on runs after those operations. In a capture it ends the branch that they are.
 * Ordering: local. Threads: one at a time with other calls on comm.
 * Errors: of every call; CHOIR_ERR_ARGUMENT stream is no CUDA stream; CHOIR_ERR_SYSTEM an error of CUDA, named in the record.
 * Cost: an event; no wait. Source: own. Since: 0.1.
 */
CHOIR_API enum choir_status choir_overlap_wait(choir_comm *comm, choir_stream *stream);

#ifdef __cplusplus
}
#endif
#endif
