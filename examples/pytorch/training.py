# SPDX-License-Identifier: Apache-2.0
"""The parts of train.py that train: DistributedDataParallel, FSDP2, tensor parallel by DTensor, and a step in a CUDA
graph. Each holds the first losses to those of a model that one process trains alone on all ranks' batches, leaves its
curve and its step times in job.results, and returns what to print."""

import functools

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

import models
from job import Skip, expect, furthest, quartiles

REFERENCE_STEPS = 4
# Relative differences of losses. In float32 what differs is the order of additions, some 1e-7 at each, which steps of
# AdamW make more of. bfloat16 has 8 bits, one rounding is 4e-3, and a loss is the mean over many; its reference is in
# float32.
FLOAT_TOLERANCE, BFLOAT_TOLERANCE, BFLOAT_TO_FLOAT = 1e-4, 1e-2, 3e-2


class Text:
    """The transformer and its batches."""

    def __init__(self, job):
        self.job = job
        self.width, self.layers, self.heads, self.length, self.size = (512, 6, 8, 128, 8) if job.gpu else (64, 2, 4, 32, 4)
        self.corpus = models.text()

    def model(self):
        torch.manual_seed(1)
        return models.Transformer(self.width, self.layers, self.heads, self.length).to(self.job.device)

    def batch(self, step, rank):
        batch = models.text_batch(self.corpus, self.size, self.length, step, rank)
        return [t.to(self.job.device) for t in batch]

    def optimizer(self, parameters, **more):
        return torch.optim.AdamW(parameters, lr=1e-3, **more)


class Pictures:
    """The convolutional net and its batches."""

    def __init__(self, job):
        self.job = job
        self.width, self.size = (64, 128) if job.gpu else (8, 8)

    def model(self):
        torch.manual_seed(2)
        return models.ConvNet(self.width).to(self.job.device)

    def batch(self, step, rank):
        return [t.to(self.job.device) for t in models.picture_batch(self.size, step, rank)]

    def optimizer(self, parameters):
        return torch.optim.SGD(parameters, lr=0.02, momentum=0.9)


def loss_of(model, batch):
    return functional.cross_entropy(model(batch[0]).float(), batch[1])


def train(job, model, optimizer, batches):
    """Losses of this rank, and milliseconds."""
    losses, marks = [], []
    for batch in batches:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        marks.append(job.mark())
    return losses, job.milliseconds(marks)


def reference(task, ranks):
    """The same training without communication: every rank's batch in turn, the gradients added."""
    model = task.model()
    optimizer = task.optimizer(model.parameters())
    losses = []
    for step in range(REFERENCE_STEPS):
        optimizer.zero_grad()
        total = 0.0
        for rank in ranks:
            loss = loss_of(model, task.batch(step, rank)) / len(ranks)
            loss.backward()
            total += loss.item()
        optimizer.step()
        losses.append(total)
    return losses


def conclude(job, name, losses, times, tolerance, task, ranks, to_reference):
    """Checks a curve and keeps it."""
    curve = job.curve(losses)
    first = furthest(curve[:REFERENCE_STEPS], reference(task, ranks)[: len(curve)])
    expect(
        first <= to_reference, f"the first losses are {first:.2g} off those of one process alone (allowed {to_reference:g})"
    )
    expect(sum(curve[-3:]) < 0.97 * sum(curve[:3]), f"it does not learn: {curve[:3]} and at the end {curve[-3:]}")
    job.results[name] = {"losses": curve, "step_ms": times, "tolerance": tolerance}
    low, median, high = quartiles(times)
    learnt = f"loss {curve[0]:.4f} to {curve[-1]:.4f} in {len(curve)} steps, {first:.1g} off one process alone"
    return f"{learnt}; a step {median:.2f} ms ({low:.2f} to {high:.2f})"


def data_parallel(job, name, task):
    where = [job.device.index] if job.gpu else None
    model = DistributedDataParallel(task.model(), device_ids=where, gradient_as_bucket_view=True)
    optimizer = task.optimizer(model.parameters())
    batches = [task.batch(step, job.rank) for step in range(job.steps)]
    losses, times = train(job, model, optimizer, batches)
    for key, mine in model.named_parameters():
        first = mine.detach().clone()
        dist.broadcast(first, 0)
        job.all_agree(torch.equal(first, mine), f"{key} is not what rank 0 has")
    return conclude(job, name, losses, times, FLOAT_TOLERANCE, task, range(job.size), FLOAT_TOLERANCE)


def ddp_transformer(job):
    return data_parallel(job, "ddp-transformer", Text(job))


def ddp_conv(job):
    return data_parallel(job, "ddp-conv", Pictures(job))


def fsdp2(job):
    """Parameters and gradients travel in bfloat16, the optimizer's are float32."""
    task = Text(job)
    model, mesh = task.model(), init_device_mesh(job.device.type, (job.size,))
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.bfloat16)
    shard = functools.partial(fully_shard, mesh=mesh, mp_policy=policy)
    for block in model.blocks:
        shard(block)
    shard(model)
    batches = [task.batch(step, job.rank) for step in range(job.steps)]
    losses, times = train(job, model, task.optimizer(model.parameters()), batches)
    for key, parameter in model.named_parameters():
        whole = parameter.full_tensor()
        first = whole.clone()
        dist.broadcast(first, 0)
        job.all_agree(torch.equal(first, whole), f"{key}, gathered, is not what rank 0 gathers")
    return conclude(job, "fsdp2", losses, times, BFLOAT_TOLERANCE, task, range(job.size), BFLOAT_TO_FLOAT)


def tensor_parallel(job):
    """Every rank has the same batch, and a part of the heads, of the hidden layer and of the vocabulary."""
    task = Text(job)
    if task.heads % job.size:
        raise Skip(f"{task.heads} heads on {job.size} ranks")
    model, mesh = task.model(), init_device_mesh(job.device.type, (job.size,))
    ends = {"embed": RowwiseParallel(input_layouts=Replicate()), "head": ColwiseParallel(output_layouts=Replicate())}
    parallelize_module(model, mesh, ends)
    plan = {f"attention.{key}": ColwiseParallel() for key in ("query", "key", "value")}
    plan |= {"attention.out": RowwiseParallel(), "up": ColwiseParallel(), "down": RowwiseParallel()}
    for block in model.blocks:
        parallelize_module(block, mesh, plan)
    parts = [p for p in model.parameters() if isinstance(p, DTensor)]
    wholes = [p for p in model.parameters() if not isinstance(p, DTensor)]
    optimizer = task.optimizer([{"params": parts}, {"params": wholes}])  # the two kinds do not go into one list
    batches = [task.batch(step, 0) for step in range(job.steps)]
    losses, times = train(job, model, optimizer, batches)
    return conclude(job, "tensor-parallel", losses, times, FLOAT_TOLERANCE, task, [0], FLOAT_TOLERANCE)


class GraphStep:
    """Forward, backward, the gradients' all_reduce, the loss's, and the optimizer, on fixed memory."""

    def __init__(self, job, task):
        self.size, self.model = job.size, task.model()
        self.parameters = list(self.model.parameters())
        self.gradient = torch.zeros(sum(p.numel() for p in self.parameters), device=job.device)
        for p, grad in zip(self.parameters, self.gradient.split([p.numel() for p in self.parameters])):
            p.grad = grad.view_as(p)
        self.optimizer = task.optimizer(self.parameters, capturable=True)
        self.start = [p.detach().clone() for p in self.parameters]
        self.batch = [torch.zeros_like(t) for t in task.batch(0, 0)]
        self.loss = torch.zeros((), device=job.device)

    def __call__(self):
        self.gradient.zero_()
        loss = loss_of(self.model, self.batch) / self.size
        loss.backward()
        self.loss.copy_(loss.detach())
        dist.all_reduce(self.gradient)
        dist.all_reduce(self.loss)
        self.optimizer.step()

    def begin_again(self):
        with torch.no_grad():
            for p, start in zip(self.parameters, self.start):
                p.copy_(start)
            for state in self.optimizer.state.values():
                for value in state.values():
                    value.zero_()


def run_steps(job, step, run, batches):
    """Losses, the mean over ranks already, and milliseconds."""
    losses, marks = [], []
    for batch in batches:
        for fixed, t in zip(step.batch, batch):
            fixed.copy_(t)
        run()
        losses.append(step.loss.clone())
        marks.append(job.mark())
    return losses, job.milliseconds(marks)


def graph(job):
    """A step captured once and then replayed gives the losses of the same step run kernel by kernel. That run also
    warms up."""
    if not job.gpu:
        raise Skip("a CPU has no CUDA graphs")
    task = Text(job)
    step = GraphStep(job, task)
    batches = [task.batch(n, job.rank) for n in range(job.steps)]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        eager, eager_times = run_steps(job, step, step, batches)
        step.begin_again()
        torch.cuda.synchronize()
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured, stream=stream, capture_error_mode="thread_local"):
            step()
        step.begin_again()
        losses, times = run_steps(job, step, captured.replay, batches)
    torch.cuda.synchronize()
    captured.reset()  # before the communicator that it holds
    apart = furthest([x.item() for x in losses], [x.item() for x in eager])
    expect(apart <= FLOAT_TOLERANCE, f"losses of the graph are {apart:.2g} off those without (allowed {FLOAT_TOLERANCE:g})")
    text = conclude(job, "graph", losses, times, FLOAT_TOLERANCE, task, range(job.size), FLOAT_TOLERANCE)
    return f"{text}, {quartiles(eager_times)[1]:.2f} ms without the graph, losses {apart:.1g} apart"


PARTS = {
    "ddp-transformer": ddp_transformer,
    "ddp-conv": ddp_conv,
    "fsdp2": fsdp2,
    "tensor-parallel": tensor_parallel,
    "graph": graph,
}
