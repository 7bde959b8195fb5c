"""Task: the edges of the transformer of two layers that has learned induction.

Source: Olsson et al., "In-context Learning and Induction Heads", 2022; `../induction/build.py` for model and
windows.

Steps:
1. A prompt is a window of `tiny/induction`, less its last token: a prefix, a segment of n distinct tokens,
   the segment again. n is one of `LENGTHS`; prompts of one n are a template, their positions are aligned.
2. Scored is every position of the second occurrence but the last; right is the token that followed the one at
   hand the first time, all others are wrong.
3. The counterfactual is the same window under another name for every token: a random permutation of the
   vocabulary that leaves no token as it is. It is a window like the others, and another token is right at
   every scored position.
4. Circuits, from files that `edges.py` writes: `known-circuit`; `textbook-circuit`, without the edges by
   which layer 0 adds to what is copied; `other-circuit`, as many edges, with another head in place of the one
   that attends to the previous token.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from remainder.build import BuiltCircuit, load_script
from remainder.circuit.plain import Layer, PlainCircuitModel
from remainder.circuit.prompts import PADDING, Prompts
from remainder.formats.eap_ig import load

__all__ = ["LENGTHS", "build", "circuit_model", "prompts", "splits"]

LENGTHS = (24, 28, 32)
"""Of the segment, one for each template."""


def circuit_model(folder: Path) -> PlainCircuitModel:
    """The network of `tiny/induction`, whose weights lie in `folder`, in float32."""
    stored = {name: value.float() for name, value in load_file(folder / "weights.safetensors").items()}
    heads = load_script(folder / "build.py").HEADS

    def into(layer: int, name: str) -> Tensor:
        # Stored as [out, in], heads side by side in `out`.
        return stored[f"layer_{layer}.{name}.weight"].unflatten(0, (heads, -1)).transpose(1, 2).contiguous()

    layers = [
        Layer(
            query=into(i, "query"),
            key=into(i, "key"),
            value=into(i, "value"),
            output=stored[f"layer_{i}.output.weight"].T.unflatten(0, (heads, -1)).contiguous(),
        )
        for i in (0, 1)
    ]
    unembedding = stored["unembedding.weight"].T.contiguous()
    token, position = stored["embedding.weight"], stored["position.weight"]
    return PlainCircuitModel(token, position, layers, unembedding, causal=True).eval()


def prompts(induction: ModuleType, split: str, count: int, rng: np.random.Generator) -> tuple[Prompts, ...]:
    """`count` prompts for each of `LENGTHS` (steps 1 to 3); `induction` is the script of `tiny/induction`."""
    found = []
    for length in LENGTHS:
        windows = _windows(induction, length, count, rng)
        other = np.stack([_derangement(induction.VOCABULARY, rng)[window] for window in windows])
        scored = induction.scored(np.full(count, length))
        found.append(
            Prompts(
                template=f"{length} tokens repeated",
                tokens=windows[:, :-1],
                counterfactual=other[:, :-1],
                documents=tuple(f"{split}-{length}-{row}" for row in range(count)),
                scored=scored,
                correct=windows[:, 1:][scored].reshape(count, -1, 1),
                wrong=np.full((count, length - 1, 0), PADDING, dtype=np.int64),
            )
        )
    return tuple(found)


def _windows(induction: ModuleType, length: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The first `count` windows that the task's own law gives whose segment is so long."""
    kept: list[NDArray[np.int64]] = []
    while sum(map(len, kept)) < count:
        tokens, lengths = induction.sequences(16 * count, rng)
        kept.append(tokens[lengths == length])
    return np.concatenate(kept)[:count]


def _derangement(size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """A random permutation that leaves nothing in its place."""
    while True:
        permutation = rng.permutation(size)
        if (permutation != np.arange(size)).all():
            return permutation


def splits(induction: ModuleType, seed: int, count: int) -> list[tuple[Prompts, ...]]:
    """Prompts of fit, calibration and evaluation, `count` of each template, each from a stream of its own."""
    streams = np.random.default_rng(seed).spawn(3)
    names = ("fit", "calibration", "evaluation")
    return [prompts(induction, name, count, stream) for name, stream in zip(names, streams, strict=True)]


def build(seed: int, folder: Path, count: int = 40) -> BuiltCircuit:
    """The trained model as a graph, `count` prompts of each template for each split, and circuits."""
    source = folder.parent / "induction"
    model = circuit_model(source)
    fit, calibration, evaluation = splits(load_script(source / "build.py"), seed, count)
    return BuiltCircuit(
        model=model,
        prompts={"fit": fit, "calibration": calibration, "evaluation": evaluation},
        interpretations={
            "known-circuit": load(folder / "circuit.json", model.graph).circuits,
            "textbook-circuit": load(folder / "textbook.json", model.graph).circuits,
            "other-circuit": load(folder / "other.json", model.graph).circuits,
        },
    )
