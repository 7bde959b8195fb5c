"""A small network that reads handwritten digits: 64 pixels → 64 → 32 → 10 classes, ReLU.

Data: the 1,797 images of 8 × 8 pixels that scikit-learn ships (`load_digits`; the test set of the UCI
"Optical Recognition of Handwritten Digits", 14 writers one after another, in scikit-learn's order).

Steps:
1. A document is a run of 12 images in the order of the file, so nearly always of one writer; the last 9
   images make no whole run and are left out.
2. Documents are ordered by a hash; the first 40 are `evaluation`, the next 28 `calibration`, 81 are `fit`.
3. The site is the first hidden layer after its ReLU; an image is a position.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

from remainder.build import Built, Examples

__all__ = ["COUNTS", "IMAGES", "Network", "build", "splits"]

IMAGES = 12
"""Images in a document."""

COUNTS = {"evaluation": 40, "calibration": 28}
"""Documents of the splits that the network has not seen; `fit` has the others."""

# The weights belong to one split of the documents, so no seed of the caller may move it.
_SPLIT = "digits-1"
_SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"


class Network(nn.Module):
    """Images [..., 64], grey values from 0 to 1, to logits [..., 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.hidden = nn.Identity()  # the site: the first layer's output after its ReLU
        self.second = nn.Linear(64, 32)
        self.readout = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.hidden(self.first(images).relu())
        logits: Tensor = self.readout(self.second(hidden).relu())
        return logits


def splits() -> dict[str, Examples]:
    """Images [documents, 12, 64] (grey values from 0 to 1) and their digits, by split.

    Raises:
        ValueError: if scikit-learn's file is another than the one that the weights were trained on.
    """
    pixels, digits = _data()
    starts = range(0, len(pixels) - IMAGES + 1, IMAGES)
    names = [f"images-{start:04d}-{start + IMAGES - 1:04d}" for start in starts]
    order = sorted(
        range(len(names)), key=lambda i: hashlib.sha256(f"{_SPLIT}:{names[i]}".encode()).hexdigest()
    )
    inputs = (pixels[: len(names) * IMAGES].astype(np.float32) / 16).reshape(len(names), IMAGES, 64)
    targets = digits[: len(names) * IMAGES].astype(np.int64).reshape(len(names), IMAGES)
    first, second = COUNTS["evaluation"], COUNTS["evaluation"] + COUNTS["calibration"]
    chosen = {"evaluation": order[:first], "calibration": order[first:second], "fit": order[second:]}
    return {
        split: Examples(inputs[places], targets[places], tuple(names[i] for i in places))
        for split, places in chosen.items()
    }


def build(seed: int, folder: Path) -> Built:
    """The trained network and its images; `seed` moves nothing, since the weights belong to one split."""
    network = Network()
    network.load_state_dict(load_file(folder / "weights.safetensors"))
    return Built(network.eval(), splits())


def _data() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    data = load_digits()
    pixels, digits = data.data.astype(np.uint8), data.target.astype(np.uint8)
    found = hashlib.sha256(pixels.tobytes() + digits.tobytes()).hexdigest()
    if found != _SHA256:
        raise ValueError(f"load_digits gives other images than those trained on: SHA-256 {found}")
    return pixels, digits
