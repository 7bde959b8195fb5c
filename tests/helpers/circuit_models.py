"""Tiny random models with a graph, and prompts for them, to test circuits on.

`PlainModel` is written out in matrices, in float64: attention with queries, keys and values per head or per
group of heads, norms before each stage, biases everywhere. `bridge_model` is one of `tiny`'s models behind
TransformerLens' bridge.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import tiny
import torch
from torch import Tensor

from remainder.loading.fetch import load_bridge
from remainder.model.architecture import Architecture, Graph, Stage
from remainder.model.graph import BridgeCircuitModel, Tap
from remainder.task.prompts import Prompts
from remainder.task.spec import ModelSpec

VOCABULARY, WIDTH, SIZE, HIDDEN, HEADS, POSITIONS = 11, 8, 4, 10, 3, 5
"""Tokens, width of the stream, of a head, of an MLP; heads a layer; tokens of a prompt."""


@dataclass
class PlainModel:
    """A transformer in plain matrices; a `CircuitModel`.

    Args:
        layers: how many.
        groups: key-value heads a layer, 1 or 3.
        mlps, parallel: as in `Architecture`.
        linear: without norms, with MLPs that are matrices and attention that looks at all earlier tokens
            alike, so that the logits are linear in what every stage reads.
        seed: of the weights.
    """

    layers: int = 2
    groups: int = 3
    mlps: bool = True
    parallel: bool = False
    linear: bool = False
    seed: int = 0
    weights: dict[str, Tensor] = field(init=False)
    graph: Graph = field(init=False)

    def __post_init__(self) -> None:
        shape = Architecture(self.layers, HEADS, self.groups, WIDTH, self.mlps, self.parallel)
        self.graph = Graph(shape)
        generator = torch.Generator().manual_seed(self.seed)

        def random(*size: int, scale: float = 1.0) -> Tensor:
            return scale * torch.randn(*size, generator=generator, dtype=torch.float64)

        found = {
            "embed": random(VOCABULARY, WIDTH),
            "positions": random(POSITIONS, WIDTH, scale=0.5),
            "unembed": random(WIDTH, VOCABULARY, scale=0.7),
            "gain": 1 + random(WIDTH, scale=0.2),
        }
        for layer in range(self.layers):
            for kind, count in (("q", HEADS), ("k", self.groups), ("v", self.groups)):
                scale = 0 if self.linear and kind != "v" else 0.6
                found[f"{layer}.{kind}"] = random(count, WIDTH, SIZE, scale=scale)
                found[f"{layer}.{kind}.bias"] = random(count, SIZE, scale=scale / 2)
            found[f"{layer}.o"] = random(HEADS, SIZE, WIDTH, scale=0.6)
            found[f"{layer}.o.bias"] = random(WIDTH, scale=0.3)
            found[f"{layer}.in"] = random(WIDTH, HIDDEN, scale=0.5)
            found[f"{layer}.in.bias"] = random(HIDDEN, scale=0.3)
            found[f"{layer}.out"] = random(HIDDEN, WIDTH, scale=0.5)
            found[f"{layer}.out.bias"] = random(WIDTH, scale=0.3)
            found[f"{layer}.gain.a"] = 1 + random(WIDTH, scale=0.2)
            found[f"{layer}.gain.m"] = 1 + random(WIDTH, scale=0.2)
        self.weights = found

    def ungrouped(self) -> PlainModel:
        """The same function with a key and a value of its own for every head."""
        other = PlainModel(self.layers, HEADS, self.mlps, self.parallel, self.linear, self.seed)
        other.weights = dict(self.weights)
        for layer in range(self.layers):
            for name in ("k", "k.bias", "v", "v.bias"):
                other.weights[f"{layer}.{name}"] = self.weights[f"{layer}.{name}"].repeat_interleave(
                    HEADS // self.groups, 0
                )
        return other

    def embed(self, tokens: Tensor) -> Tensor:
        """What `input` writes, [rows, positions, d]."""
        return self.weights["embed"][tokens] + self.weights["positions"][: tokens.shape[1]]

    def norm(self, x: Tensor, gain: str) -> Tensor:
        """RMS norm over the last axis."""
        if self.linear:
            return x
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * self.weights[gain]

    def bend(self, x: Tensor) -> Tensor:
        """The MLPs' nonlinearity."""
        return x if self.linear else torch.nn.functional.gelu(x)

    def run(self, tokens: Tensor, tap: Tap | None = None) -> Tensor:
        w = self.weights
        stream = self.embed(tokens)
        before = stream
        for stage in self.graph.stages:
            layer = stage.name[1:]
            if stage.name == "input":
                values = stream[:, :, None]
            elif stage.name == "logits":
                return self.norm(self._read(tap, stage, stream)[:, :, 0], "gain") @ w["unembed"]
            elif stage.name.startswith("a"):
                before = stream
                reads = self.norm(self._read(tap, stage, stream), f"{layer}.gain.a")
                values = self._attend(layer, *reads.split([HEADS, self.groups, self.groups], 2))
                stream = stream + self.outputs(stage, values).sum(2) + w[f"{layer}.o.bias"]
            else:
                reads = self._read(tap, stage, before if self.parallel else stream)
                hidden = self.bend(
                    self.norm(reads, f"{layer}.gain.m") @ w[f"{layer}.in"] + w[f"{layer}.in.bias"]
                )
                values = hidden @ w[f"{layer}.out"] + w[f"{layer}.out.bias"]
                stream = stream + values[:, :, 0]
            if tap is not None:
                tap.write(stage, values)
        raise AssertionError("a graph ends with the logits")

    def outputs(self, stage: Stage, values: Tensor) -> Tensor:
        if not stage.name.startswith("a"):
            return values
        return torch.einsum("...hz,hzd->...hd", values, self.weights[f"{stage.name[1:]}.o"])

    @staticmethod
    def _read(tap: Tap | None, stage: Stage, stream: Tensor) -> Tensor:
        found = None if tap is None else tap.read(stage, stream)
        count = stage.readers.stop - stage.readers.start
        return stream[:, :, None].expand(-1, -1, count, -1) if found is None else found

    def _attend(self, layer: str, *reads: Tensor) -> Tensor:
        q, k, v = (
            torch.einsum("rphd,hdz->rphz", read, self.weights[f"{layer}.{kind}"])
            + self.weights[f"{layer}.{kind}.bias"]
            for kind, read in zip("qkv", reads, strict=True)
        )
        k, v = (x.repeat_interleave(HEADS // self.groups, 2) for x in (k, v))
        scores = torch.einsum("rphz,rshz->rhps", q, k) / SIZE**0.5
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        pattern = scores.masked_fill(later, -torch.inf).softmax(-1)
        return torch.einsum("rhps,rshz->rphz", pattern, v)


@cache
def bridge_model(architecture: str = "llama") -> BridgeCircuitModel:
    """One of `tiny.ARCHITECTURES` behind TransformerLens' bridge; do not change it."""
    folder = tiny.model_folder(architecture)
    bridge = load_bridge(ModelSpec(name="tiny", licence="MIT", hub=str(folder)), folder=folder)
    return BridgeCircuitModel(bridge, tiny.tokens(2)[:, :7])


def make_prompts(
    count: int = 4,
    *,
    template: str = "random",
    positions: int = POSITIONS,
    vocabulary: int = VOCABULARY,
    scored: int = 1,
    seed: int = 0,
    **changed: Any,
) -> Prompts:
    """Random prompts whose counterfactuals differ at two positions, with one right and one wrong token."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(0, vocabulary, (count, positions))
    other = tokens.copy()
    other[:, 1:3] = (tokens[:, 1:3] + generator.integers(1, vocabulary, (count, 2))) % vocabulary
    flags = np.zeros((count, positions), dtype=np.bool_)
    flags[:, positions - scored :] = True
    right = generator.integers(0, vocabulary, (count, scored, 1))
    fields: dict[str, Any] = {
        "template": template,
        "tokens": tokens,
        "counterfactual": other,
        "documents": tuple(f"{template}-{i}" for i in range(count)),
        "scored": flags,
        "correct": right,
        "wrong": (right + generator.integers(1, vocabulary, right.shape)) % vocabulary,
    }
    return Prompts(**{**fields, **changed})
