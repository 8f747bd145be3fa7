# SPDX-License-Identifier: Apache-2.0
"""One process of train.py: its settings, the process group, which library answers to NCCL's names, and how a part
checks and times. It is imported first: PyTorch reads some of the settings below when it is loaded."""

import ctypes
import datetime
import faulthandler
import os
import sys

os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic products of matrices need
os.environ.setdefault("NCCL_NVLS_ENABLE", "0")  # the switch's multicast is left alone, so that both libraries have the same
os.environ.setdefault("TORCH_SYMM_MEM_DISABLE_MULTICAST", "1")

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

WAIT_S = 60  # for one operation


class Wrong(Exception):
    """A result is not what it has to be."""


class Skip(Exception):
    """A part that cannot run here, and why."""


def expect(good, what):
    if not good:
        raise Wrong(what)


class Symbol(ctypes.Structure):
    _fields_ = [
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    ]


def library():
    """File and version of the NCCL that PyTorch's own calls reach: what the program's start put before all others
    (LD_PRELOAD), else the one that PyTorch names. The wheel's is loaded in any case, and torch.cuda.nccl.version() tells
    of compilation: neither is asked."""
    version, found = ctypes.c_int(), Symbol()
    for name in None, os.path.join(os.path.dirname(torch.__file__), "lib", "libtorch_cuda.so"):
        try:
            scope = ctypes.CDLL(name)
            scope.ncclGetVersion(ctypes.byref(version))
            ctypes.CDLL(None).dladdr(ctypes.cast(scope.ncclAllReduce, ctypes.c_void_p), ctypes.byref(found))
            return {"file": found.file.decode(), "version": version.value}
        except (AttributeError, OSError):
            continue
    return {"file": "not found", "version": 0}


class Job:
    def __init__(self, device, steps, limit):
        faulthandler.dump_traceback_later(limit, exit=True)  # whatever happens, this process ends
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.gpu = device == "cuda"
        self.steps, self.warmup = steps or (60 if self.gpu else 8), 10 if self.gpu else 2
        expect(self.steps >= self.warmup + 4, f"--steps {self.steps}: {self.warmup} warm up, and 4 more are needed")
        self.results = {}
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # it would be timed
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = False
        wait = datetime.timedelta(seconds=WAIT_S)
        if self.gpu:
            local = int(os.environ.get("LOCAL_RANK", self.rank))
            self.device = torch.device("cuda", local)
            torch.cuda.set_device(self.device)
            dist.init_process_group("nccl", timeout=wait, device_id=self.device)
        else:
            torch.set_num_threads(1)
            self.device = torch.device("cpu")
            dist.init_process_group("gloo", timeout=wait)
        self.library = library() if self.gpu else {"file": "gloo", "version": 0}

    def say(self, text):
        if self.rank == 0:
            print(text, flush=True)

    def end(self):
        dist.destroy_process_group()
        faulthandler.cancel_dump_traceback_later()

    def mark(self):
        """A moment of the stream's (of a CPU: of now)."""
        if not self.gpu:
            return datetime.datetime.now()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def milliseconds(self, marks):
        """Between marks that follow each other, those of the first steps left out. Nothing is waited for while steps run."""
        pairs = list(zip(marks, marks[1:]))[self.warmup - 1 :]
        if not self.gpu:
            return [(b - a).total_seconds() * 1e3 for a, b in pairs]
        torch.cuda.synchronize()
        return [a.elapsed_time(b) for a, b in pairs]

    def curve(self, losses):
        """The mean over ranks, step by step."""
        all_losses = torch.stack([loss.double().reshape(()) for loss in losses]) / self.size
        dist.all_reduce(all_losses)
        return all_losses.tolist()

    def all_agree(self, good, what):
        """Fails on every rank if it is wrong on one."""
        ranks = torch.tensor([0 if good else 1 << self.rank], dtype=torch.int64, device=self.device)
        dist.all_reduce(ranks)
        bad = [r for r in range(self.size) if ranks.item() >> r & 1]
        expect(not bad, f"{what}, on ranks {bad}")


def quartiles(times):
    """A quarter, a half and three quarters of them are less."""
    ordered = sorted(times)
    return [ordered[min(len(ordered) - 1, len(ordered) * k // 4)] for k in (1, 2, 3)]


def furthest(got, want):
    """The largest difference of two curves, relative to their values. NaN counts as infinite."""
    expect(len(got) == len(want), f"{len(got)} losses and not {len(want)}")
    apart = [abs(a - b) / max(abs(b), 1e-3) for a, b in zip(got, want)]
    return max((d if d == d else float("inf") for d in apart), default=0.0)


def die(text):
    """Ends without waiting for the other ranks: who started them ends those."""
    print(text, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(1)
