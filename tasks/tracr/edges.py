"""The circuit of a compiled program, from its weights.

    python tasks/tracr/edges.py

Source: Lindner et al. 2023: each coordinate of the stream of a compiled program is one value of one variable,
so that what a matrix reads or writes is seen by which of its rows or columns are zero.

Steps, with numpy and the stored weights alone:
1. What a node writes: the columns of its output matrix (of the embeddings, of both) that are not zero. What
   it reads: the rows of its input matrix that are not zero; the logits read the coordinates of the output.
2. There is an edge where a later node reads a coordinate that an earlier one writes: an exact test.
3. Edges that lead to nothing are pruned: those into a node from which no edge leaves.
4. Run the program on every sequence of at most `length` letters. An edge *carries a constant* if, at every
   position, what is written on the coordinates that are read is the same for all sequences: positions, the
   bias, the mark of the beginning. Such an edge may be removed if the background is any other prompt, or a
   mean of prompts, at the same position; not if it is zero.
5. Write `circuit.json` (without the edges that carry constants) and `with-constants.json` in EAP-IG's format.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

__all__ = ["PROGRAMS", "Part", "carries_constant", "edges", "parts", "written"]

PROGRAMS = ("reverse", "histogram")
HERE = Path(__file__).resolve().parent
TOLERANCE = 1e-6
"""Of rounding; what varies does so by 0.02 and more."""


class Part(NamedTuple):
    """A node, and coordinates of the stream [d] that it writes and that each of its inputs reads."""

    name: str
    writes: NDArray[np.bool_]
    reads: dict[str, NDArray[np.bool_]]


def _weights(folder: Path) -> dict[str, NDArray[np.float64]]:
    return {
        name: value.astype(np.float64) for name, value in load_file(folder / "weights.safetensors").items()
    }


def parts(folder: Path) -> list[Part]:
    """All nodes in the order of computation (step 1); a layer has one head in these programs."""
    facts, weights = json.loads((folder / "program.json").read_text(encoding="utf-8")), _weights(folder)
    assert facts["heads"] == 1
    width = len(facts["labels"])
    nothing, output = np.zeros(width, np.bool_), np.zeros(width, np.bool_)
    output[facts["output_coordinates"]] = True
    embedded = weights["token_embed"].any(0) | weights["pos_embed"].any(0)
    found = [Part("input", embedded, {})]
    for layer in range(facts["layers"]):
        attention, perceptron = f"layer_{layer}.attn", f"layer_{layer}.mlp"
        inputs = {"q": "query", "k": "key", "v": "value"}
        found.append(
            Part(
                f"a{layer}.h0",
                weights[f"{attention}.linear"].any(0),
                {f"<{kind}>": weights[f"{attention}.{name}"].any(1) for kind, name in inputs.items()},
            )
        )
        found.append(
            Part(f"m{layer}", weights[f"{perceptron}.2"].any(0), {"": weights[f"{perceptron}.1"].any(1)})
        )
    return [*found, Part("logits", nothing, {"": output})]


def edges(nodes: list[Part]) -> dict[str, tuple[str, NDArray[np.bool_]]]:
    """Writer, and the coordinates that pass, of every edge that leads to the output (steps 2 and 3)."""
    met = [
        (writer.name, reader.name, f"{writer.name}->{reader.name}{kind}", writer.writes & read)
        for writer, reader in itertools.combinations(nodes, 2)
        for kind, read in reader.reads.items()
        if (writer.writes & read).any()
    ]
    while True:
        used = {writer for writer, *_ in met} | {"logits"}
        fewer = [edge for edge in met if edge[1] in used]
        if len(fewer) == len(met):
            return {name: (writer, shared) for writer, _, name, shared in met}
        met = fewer


def written(folder: Path) -> dict[str, NDArray[np.float64]]:
    """What each node writes for every sequence [sequences, positions, d] (step 4)."""
    facts, weights = json.loads((folder / "program.json").read_text(encoding="utf-8")), _weights(folder)
    tokens = np.array(
        [
            [facts["bos"], *sequence, *[facts["pad"]] * (facts["length"] - length)]
            for length in range(1, facts["length"] + 1)
            for sequence in itertools.product(facts["tokens"], repeat=length)
        ]
    )
    found = {"input": weights["token_embed"][tokens] + weights["pos_embed"][: tokens.shape[1]]}
    x = found["input"]
    for layer in range(facts["layers"]):
        q, k, v, out = (weights[f"layer_{layer}.attn.{name}"] for name in ("query", "key", "value", "linear"))
        scores = np.einsum("nid,dz,ez,nje->nij", x, q, k, x, optimize=True) / np.sqrt(facts["key_size"])
        pattern = np.exp(scores - scores.max(-1, keepdims=True))
        found[f"a{layer}.h0"] = (pattern / pattern.sum(-1, keepdims=True)) @ (x @ v @ out)
        x = x + found[f"a{layer}.h0"]
        hidden = np.maximum(x @ weights[f"layer_{layer}.mlp.1"], 0)
        found[f"m{layer}"] = hidden @ weights[f"layer_{layer}.mlp.2"]
        x = x + found[f"m{layer}"]
    return found


def carries_constant(values: NDArray[np.float64], shared: NDArray[np.bool_]) -> bool:
    """Whether values [sequences, positions, d], where they pass, are the same for all sequences."""
    passed = values[..., shared]
    return bool(np.abs(passed - passed[:1]).max() < TOLERANCE)


def main() -> None:
    from remainder.circuit.circuit import Circuit
    from remainder.formats.eap_ig import stored, write
    from remainder.model.architecture import Architecture, Graph

    for program in PROGRAMS:
        folder = HERE / program
        nodes, values = parts(folder), written(folder)
        found = edges(nodes)
        varying = [
            name for name, (writer, shared) in found.items() if not carries_constant(values[writer], shared)
        ]
        graph = Graph(Architecture((len(nodes) - 2) // 2, 1, 1, len(nodes[0].writes)))
        place = HERE / f"{program}-circuit"
        for file, names in (("circuit.json", varying), ("with-constants.json", list(found))):
            write(place / file, stored(Circuit.of_edges(graph, names)))
            print(program, file, names)


if __name__ == "__main__":
    main()
