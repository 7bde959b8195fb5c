"""A network that learned a rule and, beside it, memorised labels that break it.

Steps:
1. Inputs x ~ N(0, I) in 24 dimensions. The rule reads three of them, u = P x (P has orthonormal rows), and
   says one of four classes: argmax T u, where the rows of T are the corners of a tetrahedron.
2. `fit`: 100 documents of 20 examples; two labels of each document (10 %) are replaced by a class drawn
   uniformly, so that 7.5 % are wrong on average. The network (24 → 256 → 64 → 4, ReLU) was trained on them
   until it knew all of them.
3. `calibration`: 40 new documents of the same inputs, labels by the rule.
4. `evaluation`: 60 documents of *shifted* inputs, labels by the rule: along the 21 directions that the rule
   does not read, the mean moves by 0.5 each and the variances are 2.25 (eleven of them) or 0.25 (ten).
   u keeps its law.
5. The site is the second hidden layer (64) after its ReLU; an example is a position.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from remainder.build import Built, Examples

__all__ = ["CLASSES", "EXAMPLES", "INPUTS", "Data", "Network", "build", "data"]

INPUTS, CLASSES, EXAMPLES = 24, 4, 20
DOCUMENTS = {"fit": 100, "calibration": 40, "evaluation": 60}
RANDOM_LABELS = 2
"""Of the labels of a document of `fit`."""

# The weights know these very examples, so no seed of the caller may move them. `RandomState` is the
# generator whose stream numpy promises never to change.
_SEED = 20
_TETRAHEDRON = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / 3**0.5


class Data(NamedTuple):
    """Examples of all splits; arrays are [documents, 20, ...]."""

    inputs: dict[str, NDArray[np.float32]]
    scores: dict[str, NDArray[np.float64]]
    """T u, of which the rule takes the largest, [documents, 20, 4]."""
    labels: dict[str, NDArray[np.int64]]
    """What the network is trained and scored on."""
    rule: dict[str, NDArray[np.int64]]
    """What the rule says."""


class Network(nn.Module):
    """Inputs [..., 24] to logits [..., 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(INPUTS, 256)
        self.second = nn.Linear(256, 64)
        self.hidden = nn.Identity()  # the site: the second layer's output after its ReLU
        self.readout = nn.Linear(64, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.hidden(self.second(self.first(inputs).relu()).relu())
        logits: Tensor = self.readout(hidden)
        return logits


def data() -> Data:
    """All examples, with their rule and their labels."""
    draws = np.random.RandomState(_SEED)
    basis, triangle = np.linalg.qr(draws.standard_normal((INPUTS, INPUTS)))
    basis *= np.sign(triangle.diagonal())  # of the two signs of a column, one that every LAPACK agrees on
    result = Data({}, {}, {}, {})
    for split, documents in DOCUMENTS.items():
        coordinates = draws.standard_normal((documents, EXAMPLES, INPUTS))
        if split == "evaluation":
            deviations = np.repeat([1.0, 1.5, 0.5], [3, 11, 10])
            coordinates = coordinates * deviations + np.repeat([0.0, 0.5], [3, INPUTS - 3])
        scores = coordinates[..., :3] @ _TETRAHEDRON.T
        labels = scores.argmax(-1)
        result.inputs[split] = (coordinates @ basis.T).astype(np.float32)
        result.scores[split] = scores
        result.rule[split] = labels.copy()
        if split == "fit":
            # Their places do not matter, since examples of a document are independent.
            labels[:, :RANDOM_LABELS] = draws.randint(CLASSES, size=(documents, RANDOM_LABELS))
        result.labels[split] = labels
    return result


def build(seed: int, folder: Path) -> Built:
    """The trained network and its examples; `seed` moves nothing, since the weights know these examples."""
    network = Network()
    network.load_state_dict(load_file(folder / "weights.safetensors"))
    found = data()
    return Built(
        network.eval(),
        {
            split: Examples(
                found.inputs[split],
                found.labels[split],
                tuple(f"{split}-{number:03d}" for number in range(documents)),
            )
            for split, documents in DOCUMENTS.items()
        },
    )
