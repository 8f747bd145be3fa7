# SPDX-License-Identifier: Apache-2.0
"""The two models that train.py trains and the data they learn from: a transformer on generated text, a convolutional
net on generated pictures. All of it follows from seeds, drawn on the CPU, so that every process and every run has the
same. Nothing here knows of ranks but by the number that picks a batch."""

import torch
from torch import nn
from torch.nn import functional

VOCABULARY = 128  # bytes of ASCII


class Attention(nn.Module):
    """Causal. Heads are counted from what the linear layers give, so that these can be shards of the whole."""

    def __init__(self, width, heads):
        super().__init__()
        self.head = width // heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        batch, length, _ = x.shape
        q, k, v = (f(x).view(batch, length, -1, self.head).transpose(1, 2) for f in (self.query, self.key, self.value))
        score = (q @ k.transpose(2, 3)) * self.head**-0.5
        later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        mixed = score.masked_fill(later, float("-inf")).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(batch, length, -1))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    def __init__(self, width, layers, heads, length):
        super().__init__()
        self.embed, self.place = nn.Embedding(VOCABULARY, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY)

    def forward(self, tokens):
        x = self.embed(tokens) + self.place(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)).flatten(0, 1)


class ConvNet(nn.Module):
    """Residual, with batch norm, whose buffers DistributedDataParallel broadcasts. Pooling is a mean, whose gradient has
    one order of additions."""

    def __init__(self, width, classes=10):
        super().__init__()
        widths = [width, 2 * width, 4 * width]
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in zip([width] + widths, widths))
        self.inner = nn.ModuleList(nn.Conv2d(w, w, 3, padding=1) for w in widths)
        self.norm1, self.norm2 = (nn.ModuleList(nn.BatchNorm2d(w) for w in widths) for _ in range(2))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x):
        x = self.stem(x)
        for down, norm1, inner, norm2 in zip(self.down, self.norm1, self.inner, self.norm2):
            x = functional.relu(norm1(down(x)))
            x = functional.relu(x + norm2(inner(x)))
        return self.head(x.mean((2, 3)))


def generator(*numbers):
    """Of its own for each use, whatever was drawn before."""
    seed = 20077
    for n in numbers:
        seed = (seed * 1000003 + n) % (1 << 31)
    return torch.Generator().manual_seed(seed)


def text(count=1 << 16):
    """Sentences of made-up words, each word's choice depending on the last: there is something to learn."""
    g = generator(1)
    words = ["".join(chr(97 + int(c)) for c in torch.randint(26, (2 + i % 6,), generator=g)) for i in range(64)]
    follows = torch.randint(len(words), (len(words), 4), generator=g)
    choice = torch.randint(4, (count // 3,), generator=g).tolist()
    out, length, word = [], 0, 0
    for i, c in enumerate(choice):
        word = int(follows[word, c])
        out.append(words[word] + (". " if i % 9 == 8 else " "))
        length += len(out[-1])
        if length >= count:
            break
    return torch.tensor(list("".join(out)[:count].encode()), dtype=torch.long)


def text_batch(corpus, size, length, step, rank):
    """Inputs, and each one's next byte."""
    begin = torch.randint(len(corpus) - length - 1, (size, 1), generator=generator(2, step, rank))
    rows = corpus[begin + torch.arange(length + 1)]
    return rows[:, :-1].contiguous(), rows[:, 1:].flatten()


def picture_batch(size, step, rank, classes=10):
    """A pattern for each class, under noise."""
    patterns = torch.randn(classes, 3, 32, 32, generator=generator(3))
    g = generator(4, step, rank)
    label = torch.randint(classes, (size,), generator=g)
    return patterns[label] + torch.randn(size, 3, 32, 32, generator=g), label
