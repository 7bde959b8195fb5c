"""A compiled RASP program as a plain torch module, and what it reads of its residual stream.

Source: `compile.py` beside this; tracr's `transformer/model.py` and `transformer/attention.py`.

Steps of the forward pass:
1. Embeddings: token plus position. Position 0 is the beginning-of-sequence token; shorter sequences are
   padded at the end, and padding is never attended to.
2. Each layer: x += attention(x), then x += MLP(x). Softmax attention with scale key_size^(−1/2), one head
   for each selector; ReLU; no layer norm, no biases.
3. Outputs are the coordinates of the residual stream that hold the result: one-hot classes, which times
   `gain` are the logits, or one number.

Sites: `resid_0` are the embeddings, `resid_mid_i` the stream after the attention of layer i, `resid_(i+1)`
after its MLP. A coordinate of a site is *read later* if some weight that acts on it afterwards is not zero.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn

__all__ = ["Compiled", "Program", "load_program", "read_later"]


@dataclass(frozen=True)
class Program:
    """Content of `program.json`."""

    program: str
    compiler: dict[str, str]
    tokens: list[int]
    """Ids of the letters of `vocabulary`."""
    vocabulary: str
    bos: int
    pad: int
    length: int
    """Of the longest sequence, the beginning-of-sequence token not counted."""
    layers: int
    heads: int
    key_size: int
    hidden: int
    activation: str
    causal: bool
    layer_norm: bool
    categorical: bool
    output_values: list[int | str] | None
    """What each class stands for."""
    output_coordinates: list[int]
    labels: list[str]
    """Of each coordinate of the residual stream: a variable, and the value it one-hot encodes, if any."""

    def coordinates(self, variable: str) -> list[int]:
        """Where a variable is encoded."""
        return [i for i, label in enumerate(self.labels) if label.partition(":")[0] == variable]


class Attention(nn.Module):
    """Multi-head softmax attention, each position to all that are not padding."""

    def __init__(self, weights: dict[str, Tensor], heads: int) -> None:
        super().__init__()
        self.heads = heads
        for name in ("query", "key", "value", "linear"):
            self.register_buffer(name, weights[name])

    def forward(
        self, x: Float[Tensor, "windows pos d"], seen: Bool[Tensor, "windows pos"]
    ) -> Float[Tensor, "windows pos d"]:
        """What the heads add to the residual stream."""
        query, key, value = (
            (x @ matrix).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for matrix in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-1, -2) / key.shape[-1] ** 0.5
        pattern = scores.masked_fill(~seen[:, None, None, :], -1e30).softmax(-1)
        return (pattern @ value).transpose(1, 2).flatten(2) @ self.linear


class Perceptron(nn.Module):
    """One hidden layer of ReLU."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.register_buffer("first", weights["1"])
        self.register_buffer("second", weights["2"])

    def forward(self, x: Float[Tensor, "windows pos d"]) -> Float[Tensor, "windows pos d"]:
        """What the layer adds to the residual stream."""
        return (x @ self.first).relu() @ self.second


class Compiled(nn.Module):
    """Token ids [windows, 1 + length] to logits [windows, 1 + length, classes], or to numbers […, 1]."""

    def __init__(self, program: Program, weights: dict[str, Tensor], gain: float) -> None:
        super().__init__()
        assert program.activation == "relu"
        assert not program.causal
        assert not program.layer_norm
        self.program = program
        self.gain = gain if program.categorical else 1.0
        self.register_buffer("token", weights["token_embed"])
        self.register_buffer("position", weights["pos_embed"])
        self.resid_0 = nn.Identity()
        for i in range(program.layers):
            attention, perceptron = (
                {name: weights[f"layer_{i}.{part}.{name}"] for name in names}
                for part, names in (("attn", ("query", "key", "value", "linear")), ("mlp", ("1", "2")))
            )
            self.add_module(f"attention_{i}", Attention(attention, program.heads))
            self.add_module(f"resid_mid_{i}", nn.Identity())
            self.add_module(f"mlp_{i}", Perceptron(perceptron))
            self.add_module(f"resid_{i + 1}", nn.Identity())

    def forward(self, tokens: Int[Tensor, "windows pos"]) -> Float[Tensor, "windows pos outputs"]:
        """Logits or numbers at every position; those of padding mean nothing."""
        seen = tokens != self.program.pad
        x = self.resid_0(self.token[tokens] + self.position[: tokens.shape[1]])
        for i in range(self.program.layers):
            x = x + self.get_submodule(f"attention_{i}")(x, seen)
            x = self.get_submodule(f"resid_mid_{i}")(x)
            x = x + self.get_submodule(f"mlp_{i}")(x)
            x = self.get_submodule(f"resid_{i + 1}")(x)
        return self.gain * x[..., self.program.output_coordinates]


def read_later(model: Compiled, site: str) -> Bool[Tensor, " d"]:
    """Which coordinates of a site some later weight reads.

    Raises:
        ValueError: if there is no such site.
    """
    order = [name for name, _ in model.named_children()]
    if site not in order or not site.startswith("resid"):
        raise ValueError(f"{site} is no site of this model")
    read = torch.zeros(len(model.program.labels), dtype=torch.bool)
    read[model.program.output_coordinates] = True
    for name in order[order.index(site) + 1 :]:
        for matrix_name, matrix in model.get_submodule(name).named_buffers():
            if matrix_name not in ("linear", "second"):  # these write to the stream
                read |= (matrix != 0).any(1)
    return read


def load_program(folder: Path, gain: float = 1.0) -> Compiled:
    """The program compiled into `folder`, in float32."""
    program = Program(**json.loads((folder / "program.json").read_text(encoding="utf-8")))
    weights = {name: matrix.float() for name, matrix in load_file(folder / "weights.safetensors").items()}
    return Compiled(program, weights, gain).eval()
