# SPDX-License-Identifier: Apache-2.0
"""The parts of train.py that only communicate: every collective of torch.distributed, messages between two ranks,
several groups at once. Values are small whole numbers, which every type here holds and adds exactly, so that results
are compared for equality."""

import itertools

import torch
import torch.distributed as dist
from torch.distributed import ReduceOp
from torch.distributed.device_mesh import init_device_mesh

from job import Skip, expect

COUNTS = [0, 1, 17, 4099, 1 << 20]
FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
WHOLES = [torch.int32, torch.int64, torch.uint8, torch.int8]


def values(job, count, dtype, rank, part=0):
    """What `rank` gives, 0 to 4: eight ranks' sum is exact even in bfloat16 and int8."""
    n = torch.arange(count, device=job.device)
    return ((n * 3 + rank * 5 + part * 7 + n // 5) % 5).to(dtype)


def reduced(job, count, dtype, op, part=0):
    """What all ranks' values give, computed here in float64."""
    every = torch.stack([values(job, count, torch.float64, r, part) for r in range(job.size)])
    if op == ReduceOp.AVG:
        return (every.sum(0) / job.size).to(dtype)
    how = {ReduceOp.SUM: torch.sum, ReduceOp.PRODUCT: torch.prod, ReduceOp.MIN: torch.amin, ReduceOp.MAX: torch.amax}
    return how[op](every, 0).to(dtype)


def same(got, want, what):
    expect(got.dtype == want.dtype and got.shape == want.shape, f"{what}: {got.dtype} {tuple(got.shape)}")
    if not torch.equal(got, want):
        at = int((got != want).flatten().nonzero()[0])
        expect(False, f"{what}: element {at} is {got.flatten()[at].item()} and not {want.flatten()[at].item()}")


class Cell:
    """A count and a type: all collectives are tried with it. Each method is one, and is named in what it says is wrong."""

    def __init__(self, job, count, dtype):
        self.job, self.count, self.dtype = job, count, dtype
        self.mine = values(job, count, dtype, job.rank)
        self.ranks = range(job.size)

    def of(self, rank, part=0, count=None):
        return values(self.job, self.count if count is None else count, self.dtype, rank, part)

    def empty(self, count=None):
        return torch.full((self.count if count is None else count,), 99, dtype=self.dtype, device=self.job.device)

    def operations(self):
        """Products of eight times 4 pass what the small types hold; a mean is exact among 2, 4 and 8."""
        yield from [ReduceOp.SUM, ReduceOp.MIN, ReduceOp.MAX]
        if self.dtype in (torch.float32, torch.float64, torch.int32, torch.int64):
            yield ReduceOp.PRODUCT
        if self.dtype in FLOATS and self.job.size & (self.job.size - 1) == 0:
            yield ReduceOp.AVG

    def all_reduce(self):
        for op in self.operations():
            x = self.mine.clone()
            dist.all_reduce(x, op)
            same(x, reduced(self.job, self.count, self.dtype, op), str(op))

    def all_reduce_scaled(self):
        if self.dtype not in (torch.float32, torch.float64):  # bfloat16: PyTorch 2.11 with NCCL 2.28.9 gives zeros
            return
        x = self.mine.clone()
        dist.all_reduce(x, dist._make_nccl_premul_sum(2.0))
        same(x, 2 * reduced(self.job, self.count, self.dtype, ReduceOp.SUM), "premul_sum")

    def reduce(self):
        for root, op in itertools.product(self.ranks, self.operations()):
            x = self.mine.clone()
            dist.reduce(x, root, op)
            if root == self.job.rank:
                same(x, reduced(self.job, self.count, self.dtype, op), f"{op} at {root}")

    def broadcast(self):
        for root in self.ranks:
            x = self.mine.clone()
            dist.broadcast(x, root)
            same(x, self.of(root), f"from {root}")

    def all_gather(self):
        rows = [self.empty() for _ in self.ranks]
        dist.all_gather(rows, self.mine)
        for r in self.ranks:
            same(rows[r], self.of(r), f"of {r}")

    def all_gather_uneven(self):
        rows = [self.empty(self.count + r) for r in self.ranks]
        dist.all_gather(rows, self.of(self.job.rank, count=self.count + self.job.rank))
        for r in self.ranks:
            same(rows[r], self.of(r, count=self.count + r), f"of {r}")

    def all_gather_into_tensor(self):
        whole = self.empty(self.count * self.job.size)
        dist.all_gather_into_tensor(whole, self.mine)
        same(whole, torch.cat([self.of(r) for r in self.ranks]), "out of place")
        place = whole.clone().view(self.job.size, -1)[self.job.rank]
        dist.all_gather_into_tensor(whole, place)
        same(whole, torch.cat([self.of(r) for r in self.ranks]), "again")

    def gather(self):
        for root in self.ranks:
            rows = [self.empty() for _ in self.ranks] if root == self.job.rank else None
            dist.gather(self.mine, rows, root)
            for r in self.ranks if rows else []:
                same(rows[r], self.of(r), f"at {root} of {r}")

    def scatter(self):
        for root in self.ranks:
            x = self.empty()
            dist.scatter(x, [self.of(root, part=r) for r in self.ranks] if root == self.job.rank else None, root)
            same(x, self.of(root, part=self.job.rank), f"from {root}")

    def reduce_scatter(self):
        for op in self.operations():
            x = self.empty()
            dist.reduce_scatter(x, [self.of(self.job.rank, part=r) for r in self.ranks], op)
            same(x, reduced(self.job, self.count, self.dtype, op, self.job.rank), str(op))

    def reduce_scatter_tensor(self):
        for op in self.operations():
            x = self.empty()
            dist.reduce_scatter_tensor(x, torch.cat([self.of(self.job.rank, part=r) for r in self.ranks]), op)
            same(x, reduced(self.job, self.count, self.dtype, op, self.job.rank), str(op))

    def all_to_all_single(self):
        out = self.empty(self.count * self.job.size)
        dist.all_to_all_single(out, torch.cat([self.of(self.job.rank, part=r) for r in self.ranks]))
        same(out, torch.cat([self.of(r, part=self.job.rank) for r in self.ranks]), "even")

    def all_to_all_uneven(self):
        """Rank a gives b as many as pieces(a, b) says; some give nothing."""
        me = self.job.rank
        pieces = [[self.count * ((a + 2 * b) % 3) // 2 + (a != b) * b for b in self.ranks] for a in self.ranks]
        out = self.empty(sum(pieces[a][me] for a in self.ranks))
        give = torch.cat([self.of(me, part=b, count=pieces[me][b]) for b in self.ranks])
        dist.all_to_all_single(out, give, [pieces[a][me] for a in self.ranks], pieces[me])
        same(out, torch.cat([self.of(a, part=me, count=pieces[a][me]) for a in self.ranks]), "splits")

    def all_to_all(self):
        me = self.job.rank
        out = [self.empty(self.count + r + me) for r in self.ranks]
        dist.all_to_all(out, [self.of(me, part=r, count=self.count + r + me) for r in self.ranks])
        for r in self.ranks:
            same(out[r], self.of(r, part=me, count=self.count + r + me), f"of {r}")

    def asynchronous(self):
        """Several under way, waited for in the other order."""
        xs = [self.of(self.job.rank, part=k) for k in range(5)]
        works = [dist.all_reduce(x, async_op=True) for x in xs]
        for work in reversed(works):
            work.wait()
        for k, x in enumerate(xs):
            same(x, reduced(self.job, self.count, self.dtype, ReduceOp.SUM, k), f"number {k}")

    def coalesced(self):
        """In one group of NCCL's."""
        xs = [self.of(self.job.rank, part=k) for k in range(5)]
        with dist._coalescing_manager(device=self.job.device, async_ops=True) as works:
            for x in xs:
                dist.all_reduce(x)
        works.wait()
        for k, x in enumerate(xs):
            same(x, reduced(self.job, self.count, self.dtype, ReduceOp.SUM, k), f"number {k}")


COLLECTIVES = [f for f in vars(Cell) if not f.startswith("_") and f not in ("of", "empty", "operations")]
NOT_GLOO = ["all_reduce_scaled", "all_gather_uneven", "all_to_all", "coalesced"]


def objects(job):
    mine = {"rank": job.rank, "text": "x" * (1000 * job.rank)}
    every = [None] * job.size
    dist.all_gather_object(every, mine)
    expect([e["rank"] for e in every] == list(range(job.size)), f"all_gather_object: {[e['rank'] for e in every]}")
    said = [mine] if job.rank == 0 else [None]
    dist.broadcast_object_list(said, 0)
    expect(said[0]["rank"] == 0, "broadcast_object_list")


def collectives(job):
    """Small counts with every type, the large ones with two."""
    if job.size > 8:
        raise Skip("the values are exact for 8 ranks")
    cells = [(c, t) for c in COUNTS for t in FLOATS + WHOLES if c < 4099 or t in (torch.float32, torch.bfloat16)]
    names = [name for name in COLLECTIVES if job.gpu or name not in NOT_GLOO]
    for (count, dtype), name in itertools.product(cells, names):
        try:
            getattr(Cell(job, count, dtype), name)()
        except Exception as e:
            e.args = (f"{name} of {count} {dtype}: {e}",)
            raise
    objects(job)
    missing = "" if job.gpu else f"; gloo has no {', '.join(NOT_GLOO)}"
    return f"{len(names)} collectives on {len(cells)} counts and types, and objects{missing}"


def message(job, count, dtype, source, target, number):
    return values(job, count, dtype, source * job.size + target, number)


def both_ways(job, count, dtype, send, receive):
    """Round a ring. Every second rank sends first, but with an odd number of ranks the last one does not."""
    right, left = (job.rank + 1) % job.size, (job.rank - 1) % job.size
    got = torch.full((count,), 99, dtype=dtype, device=job.device)
    give = message(job, count, dtype, job.rank, right, 0)
    if job.rank % 2 or job.rank == job.size - 1:
        works = [receive(got, left), send(give, right)]
    else:
        works = [send(give, right), receive(got, left)]
    if send is dist.isend:
        for work in works:
            work.wait()
    same(got, message(job, count, dtype, left, job.rank, 0), f"{receive.__name__} of {count} {dtype}")


def batched(job, dtype):
    """Every rank to every other and several of each, in one batch: messages between two ranks keep their order."""
    counts = [0, 1, 17, 4099, 300_007]
    others = [r for r in range(job.size) if r != job.rank]
    calls, received = [], []
    for k, r in itertools.product(range(len(counts)), others):
        calls.append(dist.P2POp(dist.isend, message(job, counts[k], dtype, job.rank, r, k), r))
        into = torch.full((counts[k],), 99, dtype=dtype, device=job.device)
        calls.append(dist.P2POp(dist.irecv, into, r))
        received.append((into, message(job, counts[k], dtype, r, job.rank, k), f"message {k} of {r}, {dtype}"))
    for work in dist.batch_isend_irecv(calls):
        work.wait()
    for got, want, what in received:
        same(got, want, what)


def point_to_point(job):
    if job.size < 2:
        raise Skip("it takes two ranks")
    types = [torch.float32, torch.bfloat16, torch.int64, torch.uint8]
    for count, dtype in itertools.product([1, 17, 4099, 1 << 20], types):
        both_ways(job, count, dtype, dist.send, dist.recv)
        both_ways(job, count, dtype, dist.isend, dist.irecv)
    for dtype in types:
        for _ in range(3):
            batched(job, dtype)
    if job.rank == 0:
        dist.send_object_list(["to", 1], 1)
    elif job.rank == 1:
        said = [None, None]
        dist.recv_object_list(said, 0)
        expect(said == ["to", 1], f"recv_object_list gave {said}")
    return f"send, recv, isend and irecv of {len(types)} types, batches of {10 * (job.size - 1)} messages a rank, objects"


def check_group(job, group, members, count, number):
    """Starts an all_reduce in a group; what it returns waits and checks."""
    x = values(job, count, torch.float32, job.rank, number)
    work = dist.all_reduce(x, group=group, async_op=True)
    want = torch.stack([values(job, count, torch.float32, r, number) for r in members]).sum(0)

    def finish():
        work.wait()
        same(x, want, f"group {number} of ranks {members}")

    return finish


def make_groups(job):
    """Each with its members: copies of the world, halves, single ranks, the axes of a mesh. All ranks make all of them."""
    everyone = list(range(job.size))
    lists = [everyone, everyone, everyone[::2], everyone[1::2]] + [[r] for r in everyone]
    made = [(dist.new_group(members), members) for members in lists if members]
    if job.size % 2 == 0:
        mesh = init_device_mesh(job.device.type, (job.size // 2, 2), mesh_dim_names=("data", "model"))
        for axis in ("data", "model"):
            group = mesh.get_group(axis)
            made.append((group, dist.get_process_group_ranks(group)))
    if job.gpu:
        half = [everyone[: (job.size + 1) // 2], everyone[(job.size + 1) // 2 :]]
        split = dist.split_group(split_ranks=[part for part in half if part])
        made.append((split, dist.get_process_group_ranks(split)))
    return [(group, members) for group, members in made if job.rank in members]


def groups(job):
    """All at once, again and again; then on streams of their own; then some are destroyed and the others go on."""
    mine = make_groups(job)
    for _, count in itertools.product(range(5), [1, 4099, 1 << 18]):
        for finish in [check_group(job, group, members, count, n) for n, (group, members) in enumerate(mine)]:
            finish()
    if job.gpu:
        streams = [torch.cuda.Stream() for _ in mine]
        torch.cuda.synchronize()
        finishes = []
        for n, (group, members) in enumerate(mine):
            with torch.cuda.stream(streams[n]):
                finishes.append((streams[n], check_group(job, group, members, 1 << 18, n)))
        for stream, finish in finishes:
            with torch.cuda.stream(stream):
                finish()
        torch.cuda.synchronize()
    for group, _ in mine[1:3]:
        dist.destroy_process_group(group)
    for n, (group, members) in list(enumerate(mine))[3:] + [(0, mine[0])]:
        check_group(job, group, members, 4099, n)()
    made = "new_group, a mesh and split_group" if job.gpu else "new_group and a mesh (gloo has no split_group)"
    return f"{len(mine)} groups of rank 0 at once, made by {made}, two destroyed between"


PARTS = {"collectives": collectives, "point-to-point": point_to_point, "groups": groups}
