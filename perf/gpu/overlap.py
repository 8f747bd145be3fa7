#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What matrix products and collectives take from each other on the GPUs that they share: bf16 products of 8192^3 on one
stream, collectives of 256 MiB on another, both kept full; PyTorch with its own NCCL, and with Choir's libnccl.so.2 in its place
(LD_PRELOAD).

A subject is a library with a bound on its blocks (NCCL_MAX_CTAS). Each has a process for each GPU all the time; they take turns,
and in its turn a subject runs products alone, then for each collective both together, and the collective alone. A ratio is taken
within a turn, the slowest rank's; the table has medians over the rounds and how far the rounds spread. The blocks of an operation
are lost to the products while it runs: their rate may fall by 1.1 times the blocks' share of the multiprocessors ("allowed").

Exit: 0; 1 a library did not run, or a result was wrong; 2 usage; 77 there is no PyTorch, or there are not RANKS GPUs.
"""
import argparse
import ctypes
import importlib.util
import json
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time

SIDE, BYTES, QUEUE = 8192, 256 << 20, 8
COLLECTIVES, LIBRARIES = ["all_reduce", "all_gather"], {"nccl", "choir"}
MULTICAST_OFF = {"NCCL_NVLS_ENABLE": "0", "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1", "NVSHMEM_DISABLE_NVLS": "1"}
STARTS_S, OPENS_S, ENDS_S = 100, 30, 15  # the most that these may take: PyTorch may come from a cold disk

# --- a rank: one process, which does what each line of its standard input says, and answers with a line of JSON ---------------


def library_in_use():
    """File and version of the libnccl.so.2 that the linker finds for PyTorch, which may map its own beside one of LD_PRELOAD."""
    everyone, version = ctypes.CDLL(None), ctypes.c_int()
    if not hasattr(everyone, "ncclGetVersion"):
        return "PyTorch's own", ".".join(map(str, torch.cuda.nccl.version()))
    everyone.ncclGetVersion(ctypes.byref(version))
    address, file = ctypes.cast(everyone.ncclGetVersion, ctypes.c_void_p).value, "?"
    with open("/proc/self/maps") as maps:
        for line in maps:
            first, last = (int(n, 16) for n in line.split()[0].split("-"))
            if first <= address < last:
                file = os.path.realpath(line.split()[-1])
    return file, f"{version.value // 10000}.{version.value // 100 % 100}.{version.value % 100}"


def has_choir():
    """There is a communicator of Choir's in this process: its thread is."""
    return any(open(f"/proc/self/task/{t}/comm").read().strip() == "choir" for t in os.listdir("/proc/self/task"))


class Line:
    """A stream that is kept full of one kind of work: QUEUE of it at most have not ended."""

    def __init__(self, stream, work, together=False):
        self.stream, self.work, self.together, self.ends = stream, work, together, []

    def has_room(self):
        return len(self.ends) < QUEUE or self.ends[-QUEUE].query()

    def add(self):
        with torch.cuda.stream(self.stream):
            self.work()
            self.ends.append(torch.cuda.Event(enable_timing=True))
            self.ends[-1].record()


def agree(counts):
    """The most and the least of each over the ranks, on the host."""
    both = torch.tensor([counts, [-n for n in counts]])
    dist.all_reduce(both, dist.ReduceOp.MAX)
    return both[0].tolist(), [-n for n in both[1].tolist()]


def rates(lines, seconds):
    """Of each line, how much ended per second while all of them had work. Ranks stop after different numbers of collectives, so
    those that have begun fewer catch up; what was not begun on all ranks by then does not count."""
    begin = torch.cuda.Event(enable_timing=True)
    for line in lines:
        line.ends.clear()
    agree([0])
    begin.record()
    stop = time.monotonic() + seconds
    while time.monotonic() < stop:
        open_lines = [line for line in lines if line.has_room()]
        for line in open_lines:
            line.add()
        if not open_lines:
            time.sleep(50e-6)
    counts = [len(line.ends) for line in lines]
    most, least = agree(counts)
    for i, line in enumerate(lines):
        if line.together:
            counts[i] = least[i]
            while len(line.ends) < most[i]:
                line.add()
    torch.cuda.synchronize()
    times = [[begin.elapsed_time(end) for end in line.ends[:n]] for line, n in zip(lines, counts)]
    first, last = max(t[0] for t in times), min(t[-1] for t in times)
    inside = [[t for t in some if first <= t <= last] for some in times]
    if min(map(len, inside)) < 2:
        raise RuntimeError(f"one kind of work kept the other from running: {counts} began, {[len(t) for t in inside]} side by side")
    return [(len(t) - 1) / (t[-1] - t[0]) * 1e3 for t in inside]


class Rank:
    def __init__(self, rank, ranks, library, rendezvous):
        torch.cuda.set_device(rank)
        self.rank, self.ranks, self.library = rank, ranks, library
        dist.init_process_group("cpu:gloo,cuda:nccl", init_method=f"file://{rendezvous}", rank=rank, world_size=ranks)
        a, b = (torch.randn(SIDE, SIDE, dtype=torch.bfloat16, device="cuda") for _ in range(2))
        c = torch.empty_like(a)
        self.whole = torch.full((BYTES // 2 // ranks * ranks,), rank + 1, dtype=torch.bfloat16, device="cuda")
        self.part = self.whole[: self.whole.numel() // ranks].clone()
        self.products = Line(torch.cuda.Stream(), lambda: torch.mm(a, b, out=c))
        stream = torch.cuda.Stream()  # one for both: it orders the communicator's operations
        self.lines = {
            "all_reduce": Line(stream, lambda: dist.all_reduce(self.whole), True),
            "all_gather": Line(stream, lambda: dist.all_gather_into_tensor(self.whole, self.part), True),
        }

    def facts(self):
        file, version = library_in_use()
        return {
            "gpus": torch.cuda.device_count(),
            "gpu": torch.cuda.get_device_name(),
            "multiprocessors": torch.cuda.get_device_properties(self.rank).multi_processor_count,
            "pytorch": torch.__version__,
            "file": file,
            "version": version,
        }

    def open(self):
        """Makes the communicator, and says what is wrong: a collective's result, or the library."""
        torch.cuda.synchronize()
        self.lines["all_reduce"].add()
        torch.cuda.synchronize()
        right = bool((self.whole == self.ranks * (self.ranks + 1) // 2).all())
        self.lines["all_gather"].add()
        torch.cuda.synchronize()
        right &= all(bool((part == r + 1).all()) for r, part in enumerate(self.whole.chunk(self.ranks)))
        self.whole.zero_()  # sums leave it as it is
        self.part.zero_()
        torch.cuda.synchronize()
        for line in [self.products, *self.lines.values()]:
            for _ in range(4):
                line.add()
        torch.cuda.synchronize()
        if has_choir() != (self.library == "choir"):
            return {"wrong": f"the library is {library_in_use()}"}
        return {"wrong": None if right else "the result of a collective"}

    def turn(self, collectives, seconds):
        answer = {"products": rates([self.products], seconds)[0]}
        for name in collectives:
            products, calls = rates([self.products, self.lines[name]], seconds)
            alone = rates([self.lines[name]], seconds / 3)[0]
            answer[name] = {"products": products, "calls": calls, "alone": alone}
        return answer


def serve(a):
    """Until "end" or the end of the input. Libraries print to standard output, too, so answers have a descriptor of their own."""
    global torch, dist
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    signal.alarm(int(a.limit))  # whatever hangs
    import torch
    import torch.distributed as dist

    gpus = torch.cuda.device_count()
    rank = Rank(a.rank, a.n, a.library[0], a.rendezvous) if gpus >= a.n else None
    print(json.dumps(rank.facts() if rank else {"gpus": gpus}), file=answers, flush=True)
    for line in sys.stdin:
        word = line.strip()
        if word == "end":
            break
        answer = rank.open() if word == "open" else rank.turn(a.collective, a.seconds)
        print(json.dumps(answer), file=answers, flush=True)
    if rank:
        dist.destroy_process_group()


# --- the parent: starts the ranks, gives turns, makes a table ----------------------------------------------------------------


class Failed(Exception):
    pass


class Subject:
    """A library with a bound on its blocks; its processes."""

    def __init__(self, library, blocks, a, folder):
        self.name = f"{library}{'-' + blocks if blocks else ''}"
        self.library, self.blocks, self.turns, self.facts = library, blocks, [], None
        env = {k: v for k, v in os.environ.items() if k not in ("NCCL_MAX_CTAS", "CHOIR_CUDA_BLOCKS", "LD_PRELOAD")}
        env |= MULTICAST_OFF | {"GLOO_SOCKET_IFNAME": env.get("GLOO_SOCKET_IFNAME", "lo")}
        if blocks:
            env["NCCL_MAX_CTAS"] = blocks
        if library == "choir":
            env["LD_PRELOAD"] = os.path.abspath(os.path.join(a.build, "lib", "libnccl.so.2"))
        command = [sys.executable, os.path.abspath(__file__), "-n", str(a.n), "--library", library, "--seconds", str(a.seconds)]
        command += ["--collective", ",".join(a.collective), "--limit", str(a.limit)]
        command += ["--rendezvous", os.path.join(folder, self.name)]
        self.log = [os.path.join(folder, f"{self.name}.{rank}.log") for rank in range(a.n)]
        self.process, pipe = [], subprocess.PIPE
        for rank, log in enumerate(self.log):
            with open(log, "w") as errors:
                own = ["--rank", str(rank)]
                self.process.append(subprocess.Popen(command + own, env=env, stdin=pipe, stdout=pipe, stderr=errors, bufsize=0))

    def failed(self, what):
        """With the last lines that its processes wrote."""
        lines = [line.rstrip() for log in self.log for line in open(log, errors="replace").readlines()[-4:]]
        return Failed("\n  ".join([f"{self.name}: {what}", *lines]))

    def say(self, word):
        for p in self.process:
            try:
                p.stdin.write(f"{word}\n".encode())
            except BrokenPipeError:  # it has ended; there is no answer either
                pass

    def answers(self, what, seconds):
        deadline, found = time.monotonic() + seconds, []
        for p in self.process:
            left = max(0, deadline - time.monotonic())
            text = p.stdout.readline() if select.select([p.stdout], [], [], left)[0] else None
            if not text:
                raise self.failed(f"{what}: {'no answer in %g s' % seconds if text is None else 'a process has ended'}")
            found.append(json.loads(text))
        return found

    def end(self):
        """False: a process failed in the end, or did not end."""
        self.say("end")
        deadline, good = time.monotonic() + ENDS_S, True
        for p in self.process:
            try:
                good &= p.wait(max(0, deadline - time.monotonic())) == 0
            except subprocess.TimeoutExpired:
                good = False
        self.kill()
        return good

    def kill(self):
        for p in self.process:
            if p.poll() is None:
                p.kill()
            p.wait()


def bus_factor(collective, ranks):
    return (2 if collective == "all_reduce" else 1) * (ranks - 1) / ranks


def spread(values, scale=1.0):
    values = sorted(v * scale for v in values)
    return {"median": statistics.median(values), "least": values[0], "most": values[-1], "rounds": values}


def cell(subject, collective, ranks):
    """Rates are means over the ranks, ratios the worst rank's."""
    def over(pick, of):
        return [of(pick(rank) for rank in turn) for turn in subject.turns]

    bus = bus_factor(collective, ranks) * BYTES * 1e-9
    return {
        "library": subject.library,
        "version": subject.facts["version"],
        "blocks": int(subject.blocks or 0),
        "collective": collective,
        "products_alone": spread(over(lambda r: r["products"], statistics.mean)),
        "products_beside": spread(over(lambda r: r[collective]["products"], statistics.mean)),
        "products_percent": spread(over(lambda r: r[collective]["products"] / r["products"], min), 100),
        "bus_gb_s_alone": spread(over(lambda r: r[collective]["alone"], statistics.mean), bus),
        "bus_gb_s_beside": spread(over(lambda r: r[collective]["calls"], statistics.mean), bus),
        "bus_percent": spread(over(lambda r: r[collective]["calls"] / r[collective]["alone"], min), 100),
    }


def print_table(cells, multiprocessors):
    print("| collective | library | blocks | products/s alone | beside, % | allowed, % | bus GB/s alone | beside, % |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for c in sorted(cells, key=lambda c: (COLLECTIVES.index(c["collective"]), c["blocks"], c["library"])):
        allowed = f"{100 - 110 * c['blocks'] / multiprocessors:.1f}" if c["blocks"] else ""
        beside = [c["products_percent"], c["bus_percent"]]
        products, bus = (f"{p['median']:.1f} ({p['least']:.1f} to {p['most']:.1f})" for p in beside)
        alone = [f"{c[key]['median']:.1f}" for key in ("products_alone", "bus_gb_s_alone")]
        print(f"| {c['collective']} | {c['library']} {c['version']} | {c['blocks'] or 'unset'} | {alone[0]} | {products} | {allowed} | "
              f"{alone[1]} | {bus} |")


def attempt(subjects, problems, act):
    """The subjects that did it; the others end."""
    good = []
    for s in subjects:
        try:
            act(s)
            good.append(s)
        except Failed as e:
            problems.append(str(e))
            s.kill()
    return good


def greet(subject):
    subject.facts = subject.answers("start", STARTS_S)[0]


def first(subject):
    subject.say("open")
    for answer in subject.answers("first collectives", OPENS_S):
        if answer["wrong"]:
            raise subject.failed(f"wrong: {answer['wrong']}")


def measure(subjects, a, problems):
    """In turns; the communicators are made in turns, too, since to make one Choir measures links."""
    subjects = attempt(subjects, problems, greet)
    short = [s.facts["gpus"] for s in subjects if s.facts["gpus"] < a.n]
    if short:
        print(f"skipped overlap.py: {a.n} ranks need {a.n} GPUs and PyTorch sees {short[0]}", file=sys.stderr)
        sys.exit(77)
    subjects = attempt(subjects, problems, first)

    def turn(s):
        s.say("turn")
        s.turns.append(s.answers("turn", a.seconds * 8 + 10))

    for r in range(a.rounds):
        subjects = attempt(subjects[::-1] if r else subjects, problems, turn)
    return subjects


def run(a):
    each = a.seconds * (1 + len(a.collective) * 4 / 3) + 0.1
    expected = 20 + a.rounds * len(a.library) * len(a.blocks) * each
    print(f"overlap.py: about {expected:.0f} s", file=sys.stderr)
    a.limit = expected * 2 + STARTS_S
    problems, subjects = [], []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for blocks in a.blocks:
                subjects += [Subject(library, blocks, a, folder) for library in a.library]
            done = measure(subjects, a, problems)
            problems += [f"{s.name}: its processes did not end well" for s in done if not s.end()]
        finally:
            for s in subjects:
                s.kill()
    cells = [cell(s, c, a.n) for s in done for c in a.collective]
    if done:
        facts = done[0].facts
        print_table(cells, facts["multiprocessors"])
        for s in done:
            if not s.blocks:
                print(f"{s.library}: version {s.facts['version']}, {s.facts['file']}", file=sys.stderr)
        head = {k: facts[k] for k in ("gpu", "multiprocessors", "pytorch")}
        head |= {"ranks": a.n, "seconds": a.seconds, "rounds": a.rounds, "side": SIDE, "bytes": BYTES, "problems": problems}
        if a.output:
            with open(a.output, "w") as out:
                json.dump(head | {"cells": cells}, out, indent=1)
    for text in problems:
        print(f"overlap.py: {text}", file=sys.stderr)
    return 1 if problems else 0


def words(text):
    return text.split(",")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-n", type=int, required=True, metavar="RANKS")
    p.add_argument("-b", dest="build", default="build", help="the build that has lib/libnccl.so.2 (build)")
    p.add_argument("-o", dest="output", metavar="FILE", help="JSON")
    p.add_argument("--library", type=words, default=["nccl", "choir"], help="nccl, choir (both)")
    p.add_argument("--collective", type=words, default=COLLECTIVES, help="all_reduce, all_gather (both)")
    p.add_argument("--blocks", type=words, default=["", "8", "16", "32"], help="values of NCCL_MAX_CTAS; empty: unset (,8,16,32)")
    p.add_argument("--seconds", type=float, default=0.4, help="of each measurement; a third where a collective is alone (0.4)")
    p.add_argument("--rounds", type=int, default=3)
    for own in ("--rank", "--limit", "--rendezvous"):  # what the parent says to a rank
        p.add_argument(own, type=str if own == "--rendezvous" else float, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.rank is not None:
        a.rank = int(a.rank)
        return serve(a)
    listed = set(a.collective) <= set(COLLECTIVES) and set(a.library) <= LIBRARIES and all(b.isdigit() for b in a.blocks if b)
    if not (listed and a.n >= 2 and a.rounds >= 1 and 0.05 <= a.seconds <= 60):
        p.error("two ranks or more, a round or more, 0.05 to 60 seconds; libraries, collectives and numbers of blocks as listed")
    if not importlib.util.find_spec("torch"):
        print("skipped overlap.py: PyTorch is not installed", file=sys.stderr)
        return 77
    if "choir" in a.library and not os.path.exists(os.path.join(a.build, "lib", "libnccl.so.2")):
        p.error(f"no {a.build}/lib/libnccl.so.2: make first")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the ranks
    return run(a)


if __name__ == "__main__":
    sys.exit(main())
