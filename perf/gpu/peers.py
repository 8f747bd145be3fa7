#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times PyTorch's symmetric-memory all-reduce kernels, and NCCL through PyTorch, in CUDA graphs, one process for each GPU.

usage: peers.py -n RANKS -o FILE all|BYTES...     writes a table, fields parted by tabs
Exit: 0; 1 a result was wrong; 77 there is no PyTorch, or it has no such kernels.
"""
import argparse
import math
import os
import sys
import tempfile

os.environ["TORCH_SYMM_MEM_DISABLE_MULTICAST"] = "1"  # before the import; no multimem kernel is called either
os.environ["NCCL_NVLS_ENABLE"] = "0"

NAMES = ["NCCL by PyTorch", "one_shot_all_reduce", "two_shot_all_reduce_"]
OPERATIONS, LAUNCHES, ROUNDS = 20, 20, 5
ONE_SHOT_BYTES = 64 << 20  # more takes long and tells nothing: every rank reads all


def skip(why):
    print(f"skipped peers.py: {why}", file=sys.stderr)
    sys.exit(77)


try:
    import torch
    import torch.distributed as dist
    import torch.multiprocessing as mp
except ImportError:
    skip("PyTorch is not installed")
try:
    import torch.distributed._symmetric_memory as symm_mem
except ImportError:
    skip("this PyTorch has no symmetric memory")


def fill(tensor, rank):
    """Small whole numbers, so that every order of additions gives the same."""
    n = tensor.numel()
    tensor.copy_((torch.arange(n, device=tensor.device) % 7 + rank).to(tensor.dtype))


def expected(tensor, ranks):
    n = tensor.numel()
    return ((torch.arange(n, device=tensor.device) % 7) * ranks + ranks * (ranks - 1) // 2).to(tensor.dtype)


def median_us(call):
    """Of an operation in a graph; the slowest rank's."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        for _ in range(OPERATIONS):
            call()
    times = []
    for _ in range(ROUNDS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        graph.replay()
        torch.cuda.synchronize()
        dist.barrier()
        begin.record()
        for _ in range(LAUNCHES):
            graph.replay()
        end.record()
        torch.cuda.synchronize()
        took = torch.tensor([begin.elapsed_time(end) * 1e3 / OPERATIONS / LAUNCHES], device="cuda")
        dist.all_reduce(took, dist.ReduceOp.MAX)
        times.append(took.item())
    return sorted(times)[len(times) // 2]


def kernels(tensor, group):
    """Name, call, and what it reads."""
    ops = torch.ops.symm_mem
    plain = torch.empty_like(tensor)
    yield NAMES[0], lambda: dist.all_reduce(plain) or plain, plain
    if tensor.nbytes <= ONE_SHOT_BYTES:
        yield NAMES[1], lambda: ops.one_shot_all_reduce(tensor, "sum", group), tensor
    yield NAMES[2], lambda: ops.two_shot_all_reduce_(tensor, "sum", group), tensor


def time_kernel(call, source, rank, ranks):
    """None where the kernel refuses the size; NaN where its result is wrong."""
    fill(source, rank)
    torch.cuda.synchronize()
    dist.barrier()
    try:
        result = call()
    except RuntimeError:  # before anything was launched, and so on every rank
        return None
    torch.cuda.synchronize()
    good = torch.tensor([torch.equal(result, expected(result, ranks))], dtype=torch.int32, device="cuda")
    dist.all_reduce(good, dist.ReduceOp.MIN)
    return median_us(call) if good.item() else float("nan")


def measure(rank, ranks, sizes, path, rendezvous):
    torch.cuda.set_device(rank % torch.cuda.device_count())
    dist.init_process_group("nccl", init_method=f"file://{rendezvous}", rank=rank, world_size=ranks)
    group = dist.group.WORLD.group_name
    whole = symm_mem.empty(max(sizes) // 2, dtype=torch.bfloat16, device="cuda")
    symm_mem.rendezvous(whole, group)
    rows, wrong = [], 0
    for size in sizes:
        times = {name: time_kernel(call, source, rank, ranks) for name, call, source in kernels(whole[: size // 2], group)}
        wrong += sum(t is not None and math.isnan(t) for t in times.values())
        rows.append([str(size)] + ["" if times.get(n) is None else f"{times[n]:.2f}" for n in NAMES])
    if rank == 0:
        with open(path, "w") as out:
            for row in [["bytes"] + NAMES] + rows:
                out.write("\t".join(row) + "\n")
    dist.destroy_process_group()
    if wrong:
        sys.exit(f"peers.py: {wrong} results were wrong")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("-n", type=int, required=True)
    p.add_argument("-o", required=True)
    p.add_argument("sizes", nargs="+")
    a = p.parse_args()
    if not torch.cuda.is_available():
        skip("PyTorch sees no GPU")
    if not hasattr(torch.ops.symm_mem, "one_shot_all_reduce"):
        skip("this PyTorch has no such kernels")
    sizes = [1 << k for k in range(3, 30)] if a.sizes == ["all"] else [int(s) for s in a.sizes]
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(measure, (a.n, sizes, a.o, os.path.join(folder, "rendezvous")), nprocs=a.n)


if __name__ == "__main__":
    main()
