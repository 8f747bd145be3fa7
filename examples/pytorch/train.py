#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains and communicates with PyTorch in all its ways, to show them on NCCL or on Choir's libnccl.so.2 and to check
every result.

usage: torchrun --nproc-per-node N train.py [--parts NAME,...] [--steps N] [--device cuda|cpu] [--library TEXT] [--json FILE]
With LD_PRELOAD=.../libnccl.so.2 it runs on Choir; `compare` does that and NCCL by turns. --library: TEXT has to be in
the library's path, else it is an error. --device cpu: by gloo, and what this cannot do is skipped by name.
Exit: 0; 1 a result was wrong or a call failed, on any rank; 2 it cannot start.
"""

import argparse
import json
import os
import sys
import time
import traceback

from job import Job, Skip, die, dist, expect, torch  # first: it sets what PyTorch reads

import communication
import training

PARTS = communication.PARTS | training.PARTS


def arguments():
    p = argparse.ArgumentParser(usage=__doc__.split("usage: ")[1].split("\n")[0])
    p.add_argument("--parts", default=",".join(PARTS))
    p.add_argument("--steps", type=int, default=0, help="of training (60; 8 on a CPU)")
    p.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    p.add_argument("--library", default="", help="what the path of the library in use has to contain")
    p.add_argument("--limit", type=int, default=240, help="seconds after which this process ends itself")
    p.add_argument("--json", help="file for losses and times")
    a = p.parse_args()
    a.parts = a.parts.split(",")
    unknown = [name for name in a.parts if name not in PARTS]
    if unknown:
        p.error(f"--parts: no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if "RANK" not in os.environ:
        p.error("there is no RANK in the environment: start it with torchrun, or by compare")
    if a.device == "cuda" and not torch.cuda.is_available():
        p.error("PyTorch sees no GPU (--device cpu runs without)")
    return a


def run(job, name):
    begin = time.monotonic()
    dist.barrier()
    try:
        said = PARTS[name](job)
    except Skip as why:
        job.say(f"{name}: skipped {why}")
        return
    if job.gpu:
        torch.cuda.synchronize()
    dist.barrier()
    job.say(f"{name}: ok {said} [{time.monotonic() - begin:.1f} s]")


def check_memory(job):
    """Segments that grow are the setting under which memory's addresses come from cuMemMap."""
    segments = torch.cuda.memory_snapshot()
    growing = sum(s.get("is_expandable", False) for s in segments)
    expect(growing or not segments, "no segment of PyTorch's memory is expandable: PYTORCH_ALLOC_CONF was not read")
    job.say(f"memory: ok {growing} of {len(segments)} segments are expandable")


def main():
    a = arguments()
    name = "start"
    job = None
    try:
        job = Job(a.device, a.steps, a.limit)
        job.say(
            f"library: {job.library['file']} version {job.library['version']}, PyTorch {torch.__version__}, {job.size} ranks"
        )
        expect(a.library in job.library["file"], f"the library in use is {job.library['file']}, not {a.library}")
        for name in a.parts:
            run(job, name)
        if job.gpu:
            check_memory(job)
        if a.json and job.rank == 0:
            with open(a.json, "w") as out:
                json.dump({"library": job.library, "ranks": job.size, "parts": job.results}, out)
        name = "end"
        job.end()
    except Exception:  # noqa: BLE001 (all of them: the other ranks wait)
        die(f"{name}: FAILED on rank {job.rank if job else '?'}: {traceback.format_exc()}")


if __name__ == "__main__":
    sys.exit(main())
