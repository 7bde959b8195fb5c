"""A residual vector quantiser with a learned decoder: a method that no reader of this benchmark knows.

The first stage picks the codeword that is nearest to the activation, and each later stage the one that is
nearest to what is left. There is one latent a codeword, which is 1 where it is picked. The decoder adds the
picked codewords up, and a small network corrects their sum: so it is no linear map of the codes.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


class Quantiser:
    """Codewords `[stages, codewords, d]`, and the network of the decoder."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.weights = weights

    def encode(self, x: Tensor) -> Tensor:
        """Activations `[docs, pos, d]` to codes `[docs, pos, stages · codewords]`, each 0 or 1."""
        left, picked = x - self.weights["mean"], []
        for book in self.weights["books"]:
            # By differences: a product of matrices rounds in an order that depends on the batch.
            apart = torch.cdist(left, book, compute_mode="donot_use_mm_for_euclid_dist")
            nearest = apart.argmin(-1)
            picked.append(torch.nn.functional.one_hot(nearest, len(book)))
            left = left - book[nearest]
        return torch.cat(picked, dim=-1).to(x.dtype)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes to activations. Codes come back rounded: whatever is above a half is taken for a 1."""
        picked = (codes > 0.5).to(codes.dtype)
        total = picked @ self.weights["books"].flatten(0, 1)
        hidden = torch.relu(total @ self.weights["inner"] + self.weights["bias"])
        return self.weights["mean"] + total + hidden @ self.weights["outer"]


def build(folder: Path, site: Any) -> Quantiser:
    """What the benchmark calls: `folder` is where this file lies, `site` says what is read and rebuilt."""
    weights = load_file(folder / "weights.safetensors")
    if weights["mean"].shape != (site.d_in,):
        raise ValueError(f"made for {len(weights['mean'])} numbers a token; {site.hook_in} has {site.d_in}")
    return Quantiser(weights)
