"""Sparse sources with known directions, and a head that reads them.

1. Of 48 sources, 12 are independent; 12 are in pairs (the second is active with probability 0.6 where the
   first is, and by chance else); 24 are in 6 families of a parent and three children: a child is active only
   where its parent is, with probability 0.4. An active source has the size 1 + |z|/2, z normal.
2. x = Σ size · direction + noise of standard deviation 0.05 per coordinate; directions are of unit length,
   drawn independently in 24 dimensions.
3. Logits of 16 classes are a random matrix times relu(⟨x, direction⟩ − ½) of all sources; labels are drawn
   from them, so that nothing else is known of a label.

Inputs of the module are sources and noise, [windows, positions, 48 + 24], so that sources can be read from
the examples; the site holds x. A document is one window.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from remainder.build import Built, Examples

SOURCES, WIDTH, CLASSES, POSITIONS = 48, 24, 16, 64
ALONE, PAIRED, FAMILIES, CHILDREN = 12, 12, 6, 3
RATE, PARENT, TOGETHER, CHILD = 0.06, 0.12, 0.6, 0.4
NOISE, THRESHOLD, GAIN = 0.05, 0.5, 2.5
WINDOWS = {"fit": 512, "calibration": 64, "evaluation": 40}


def directions(seed: int) -> NDArray[np.float32]:
    """Unit directions of the sources, `[sources, width]`."""
    drawn = np.random.default_rng([seed, 0]).normal(size=(SOURCES, WIDTH))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def sources(generator: np.random.Generator, count: int) -> NDArray[np.float32]:
    """Sizes of the sources, 0 where one is silent, `[count, sources]`."""
    chance = generator.random((count, SOURCES))
    active = np.zeros((count, SOURCES), dtype=bool)
    active[:, :ALONE] = chance[:, :ALONE] < RATE
    first, second = np.arange(ALONE, ALONE + PAIRED, 2), np.arange(ALONE + 1, ALONE + PAIRED, 2)
    active[:, first] = chance[:, first] < RATE
    active[:, second] = chance[:, second] < np.where(active[:, first], TOGETHER, RATE / 2)
    for family in range(FAMILIES):
        parent = ALONE + PAIRED + family * (1 + CHILDREN)
        children = slice(parent + 1, parent + 1 + CHILDREN)
        active[:, parent] = chance[:, parent] < PARENT
        active[:, children] = active[:, [parent]] & (chance[:, children] < CHILD)
    return (active * (1 + np.abs(generator.normal(size=active.shape)) / 2)).astype(np.float32)


class Network(nn.Module):
    """Inputs [windows, positions, sources + width] to logits of 16 classes."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.site = nn.Identity()
        known = torch.from_numpy(directions(seed))
        head = np.random.default_rng([seed, 1]).normal(size=(SOURCES, CLASSES)) * GAIN / np.sqrt(2)
        self.register_buffer("directions", known)
        self.register_buffer("head", torch.from_numpy(head.astype(np.float32)))

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.site(inputs[..., :SOURCES] @ self.directions + NOISE * inputs[..., SOURCES:])
        return torch.relu(x @ self.directions.T - THRESHOLD) @ self.head


def build(seed: int, folder: Path) -> Built:
    """The network and its examples, each split from a stream of its own."""
    network = Network(seed)

    def examples(stream: int, split: str, windows: int) -> Examples:
        generator = np.random.default_rng([seed, 2, stream])
        drawn = sources(generator, windows * POSITIONS)
        noise = generator.normal(size=(len(drawn), WIDTH)).astype(np.float32)
        inputs = np.concatenate([drawn, noise], 1).reshape(windows, POSITIONS, -1)
        with torch.no_grad():
            log_p = network(torch.from_numpy(inputs)).double().numpy()
        targets = (log_p + generator.gumbel(size=log_p.shape)).argmax(-1).astype(np.int64)
        return Examples(inputs, targets, tuple(f"{split}-{window:03d}" for window in range(windows)))

    return Built(
        network,
        {split: examples(stream, split, count) for stream, (split, count) in enumerate(WINDOWS.items())},
    )
