"""A plain transformer with given weights as a `CircuitModel`: heads and MLPs add to a stream, without norms.

It serves models that are small enough to be written down: compiled programs, trained toys.

Steps of a pass:
1. The writer `input` is the embedding of the token plus that of the position.
2. A layer's heads read the stream: softmax attention, each head by its own q, k and v, and write z, which its
   own part of the output matrix maps to the stream; then the MLP, if there is one, reads and writes.
3. Logits are the stream at the end times the unembedding.

There are no biases outside of an MLP, and no masks but causality: all that reaches a reader comes from
writers.

Source: Elhage et al., "A Mathematical Framework for Transformer Circuits", 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from remainder.model.architecture import Architecture, Graph, Stage
from remainder.model.graph import Tap

__all__ = ["Layer", "PlainCircuitModel"]


@dataclass(frozen=True)
class Layer:
    """Weights of a layer; matrices multiply rows from the right."""

    query: Float[Tensor, "heads d size"]
    key: Float[Tensor, "heads d size"]
    value: Float[Tensor, "heads d z"]
    output: Float[Tensor, "heads z d"]
    mlp: nn.Module | None = None
    """Map [rows, positions, d] to the MLP's addition to the stream."""


class _Attention(nn.Module):
    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor

    def __init__(self, layer: Layer, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        for name in ("query", "key", "value", "output"):
            self.register_buffer(name, getattr(layer, name))

    def forward(
        self, inputs: tuple[Float[Tensor, "rows pos #heads d"], ...]
    ) -> Float[Tensor, "rows pos heads z"]:
        """The value z of each head, from the inputs of its query, key and value."""
        query, key, value = (
            torch.einsum("bphd,hdz->bhpz", read.expand(-1, -1, len(matrix), -1), matrix)
            for read, matrix in zip(inputs, (self.query, self.key, self.value), strict=True)
        )
        scores = query @ key.transpose(-1, -2) / key.shape[-1] ** 0.5
        if self.causal:
            future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(future, -torch.inf)
        mixed: Tensor = scores.softmax(-1) @ value
        return mixed.transpose(1, 2)


class PlainCircuitModel(nn.Module):
    """A `CircuitModel` of given weights; see the module's text.

    Args:
        token: embedding of each token [vocabulary, d].
        position: embedding of each position [positions, d]; prompts are at most that long.
        layers: the layers, with equally many heads, and either all with an MLP or none.
        unembedding: maps the stream to the logits.
        causal: whether a position attends to itself and earlier ones only.
    """

    token: Tensor
    position: Tensor
    unembedding: Tensor

    def __init__(
        self,
        token: Float[Tensor, "vocabulary d"],
        position: Float[Tensor, "positions d"],
        layers: Sequence[Layer],
        unembedding: Float[Tensor, "d outputs"],
        *,
        causal: bool,
    ) -> None:
        super().__init__()
        heads, mlps = len(layers[0].query), layers[0].mlp is not None
        self.graph = Graph(Architecture(len(layers), heads, heads, token.shape[1], mlps=mlps))
        self.register_buffer("token", token)
        self.register_buffer("position", position)
        self.register_buffer("unembedding", unembedding)
        self.attentions = nn.ModuleList(_Attention(layer, causal=causal) for layer in layers)
        self.mlps = nn.ModuleList(layer.mlp for layer in layers if layer.mlp is not None)
        # Tasks on such models have their site here: the stream that the logits read.
        self.stream = nn.Identity()

    def forward(self, tokens: Int[Tensor, "rows pos"]) -> Float[Tensor, "rows pos outputs"]:
        """Logits of an unchanged pass."""
        return self.run(tokens)

    def run(
        self, tokens: Int[Tensor, "rows pos"], tap: Tap | None = None
    ) -> Float[Tensor, "rows seen outputs"]:
        """Logits in float32, the tap called at every stage."""
        x = self.token[tokens] + self.position[: tokens.shape[1]]
        for stage in self.graph.stages:
            if stage.name == "input":
                values = x[:, :, None]
            else:
                read = None if tap is None else tap.read(stage, x)
                inputs = x[:, :, None] if read is None else read
                if stage.name == "logits":
                    logits: Tensor = self.stream(inputs[:, :, 0]) @ self.unembedding
                    return logits.float()
                values = self._values(stage, inputs)
                x = x + self.outputs(stage, values).sum(2)
            if tap is not None:
                tap.write(stage, values)
        raise AssertionError("the last stage of a graph are the logits")

    def _values(
        self, stage: Stage, inputs: Float[Tensor, "rows pos readers d"]
    ) -> Float[Tensor, "rows pos writers size"]:
        """The values of a stage's writers, from the inputs of its readers; one reader stands for all."""
        layer = int(stage.name[1:])
        if stage.name.startswith("m"):
            values: Tensor = self.mlps[layer](inputs[:, :, 0])[:, :, None]
        else:
            heads = self.graph.architecture.heads
            whole = inputs.shape[2] == 1
            values = self.attentions[layer](
                (inputs,) * 3 if whole else inputs.tensor_split((heads, 2 * heads), 2)
            )
        return values

    def outputs(
        self, stage: Stage, values: Float[Tensor, "*rows writers size"]
    ) -> Float[Tensor, "*rows writers d"]:
        """Additions to the stream: heads' z times their part of the output matrix, other values unchanged."""
        if not stage.name.startswith("a"):
            return values
        attention = self.attentions[int(stage.name[1:])]
        assert isinstance(attention, _Attention)
        return torch.einsum("...hz,hzd->...hd", values, attention.output.to(values.dtype))
