"""Tasks: compiled programs as graphs of heads and MLPs, with the circuit that the compiler laid down.

Source: Lindner et al. 2023; CONTROLS, G; `compile.py`, `model.py` and `edges.py` beside this.

Steps:
1. A prompt is the beginning-of-sequence token, a sequence of `SHORTEST` to `length` letters, and padding; one
   position of the sequence is scored. No sequence is asked at the same position twice, in no split, and there
   are equally many of each length.
2. Its counterfactual is a random sequence of another length, whose answer at the scored position is another
   one, or none since it is shorter. So length, letters and answers differ, and positions cannot.
3. The program's answer is right, by its definition; all other classes are wrong.
4. Padding is not masked, as it is in `model.py`: by its embedding alone no head selects it. Everything that
   depends on the prompt reaches the logits by edges of the graph.
5. Circuits, from the files that `edges.py` writes: `compiled-circuit`, all edges over which something passes
   that the prompt determines; `compiled-with-constants`, also those that carry the same for every prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from remainder.build import BuiltCircuit, load_script
from remainder.circuit.plain import Layer, PlainCircuitModel
from remainder.circuit.prompts import PADDING, Prompts
from remainder.formats.eap_ig import load

__all__ = ["ANSWERS", "build", "circuit_model", "prompts"]

SHORTEST = 3
ANSWERS: dict[str, Callable[[str], Sequence[int | str]]] = {
    "reverse": lambda s: s[::-1],
    "histogram": lambda s: [s.count(letter) for letter in s],
}
"""By the folder that a program was compiled into."""


class Perceptron(nn.Module):
    """One hidden layer of ReLU, without biases."""

    def __init__(self, first: Float[Tensor, "d hidden"], second: Float[Tensor, "hidden d"]) -> None:
        super().__init__()
        self.register_buffer("first", first)
        self.register_buffer("second", second)

    def forward(self, x: Float[Tensor, "rows pos d"]) -> Float[Tensor, "rows pos d"]:
        """What it adds to the stream."""
        return (x @ self.first).relu() @ self.second


def circuit_model(folder: Path, program: str, gain: float) -> PlainCircuitModel:
    """The program compiled into `folder / program`; logits are `gain` times its one-hot outputs."""
    compiled = load_script(folder / "model.py").load_program(folder / program, gain)
    facts = compiled.program
    assert facts.categorical

    def by_head(matrix: Float[Tensor, "d z"]) -> Float[Tensor, "heads d size"]:
        return matrix.unflatten(1, (facts.heads, -1)).transpose(0, 1).contiguous()

    layers = []
    for i in range(facts.layers):
        attention, perceptron = (compiled.get_submodule(f"{part}_{i}") for part in ("attention", "mlp"))
        layers.append(
            Layer(
                query=by_head(attention.query),
                key=by_head(attention.key),
                value=by_head(attention.value),
                output=attention.linear.unflatten(0, (facts.heads, -1)),
                mlp=Perceptron(perceptron.first, perceptron.second),
            )
        )
    unembedding = torch.zeros(len(facts.labels), len(facts.output_coordinates))
    unembedding[facts.output_coordinates, range(len(facts.output_coordinates))] = compiled.gain
    return PlainCircuitModel(
        compiled.token, compiled.position, layers, unembedding, causal=facts.causal
    ).eval()


def prompts(
    program: object, answers: Callable[[str], Sequence[int | str]], seed: int, count: int
) -> list[Prompts]:
    """Prompts of the splits fit, calibration and evaluation, `count` each (steps 1 to 3).

    Args:
        program: what `model.py` reads of `program.json`.
        answers: from a sequence to the value at each of its positions.
    """
    rng = np.random.default_rng(seed)
    lengths = range(SHORTEST, program.length + 1)
    asked: set[tuple[str, int]] = set()
    found = []
    for split in ("fit", "calibration", "evaluation"):
        tokens, other = (np.full((count, 1 + program.length), program.pad, dtype=np.int64) for _ in range(2))
        tokens[:, 0] = other[:, 0] = program.bos
        scored = np.zeros(tokens.shape, dtype=np.bool_)
        correct = np.zeros((count, 1, 1), dtype=np.int64)
        for row in range(count):
            length = lengths[row % len(lengths)]
            while True:
                sequence, place = _sequence(program, length, rng), int(rng.integers(length))
                if (sequence, place) not in asked:
                    break
            asked.add((sequence, place))
            answer = answers(sequence)[place]
            while True:
                changed = _sequence(program, int(rng.choice([n for n in lengths if n != length])), rng)
                if place >= len(changed) or answers(changed)[place] != answer:
                    break
            for array, letters in ((tokens, sequence), (other, changed)):
                array[row, 1 : 1 + len(letters)] = [
                    program.tokens[program.vocabulary.index(c)] for c in letters
                ]
            scored[row, 1 + place] = True
            correct[row] = program.output_values.index(answer)
        found.append(
            Prompts(
                template=f"{lengths[0]} to {lengths[-1]} letters",
                tokens=tokens,
                counterfactual=other,
                documents=tuple(f"{split}-{row}" for row in range(count)),
                scored=scored,
                correct=correct,
                wrong=np.full((count, 1, 0), PADDING, dtype=np.int64),
            )
        )
    return found


def _sequence(program: object, length: int, rng: np.random.Generator) -> str:
    return "".join(program.vocabulary[i] for i in rng.integers(0, len(program.vocabulary), length))


def build(seed: int, folder: Path, program: str, count: int = 99, gain: float = 10.0) -> BuiltCircuit:
    """The compiled `program` as a graph, `count` prompts for each split, and circuits that are known.

    Args:
        program: a key of `ANSWERS`, and the folder beside this script that it was compiled into.
        count: at most 64 for each length of sequence, of which there are three.
        gain: logits are this times the one-hot outputs.
    """
    model = circuit_model(folder, program, gain)
    facts = load_script(folder / "model.py").load_program(folder / program).program
    splits = prompts(facts, ANSWERS[program], seed, count)
    place = folder / f"{program}-circuit"
    return BuiltCircuit(
        model=model,
        prompts={
            split: (found,) for split, found in zip(("fit", "calibration", "evaluation"), splits, strict=True)
        },
        interpretations={
            "compiled-circuit": load(place / "circuit.json", model.graph).circuits,
            "compiled-with-constants": load(place / "with-constants.json", model.graph).circuits,
        },
    )
