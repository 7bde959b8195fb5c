"""Keyed randomness: every draw is a pure function of where it is used.

Noise is keyed by (seed, stream, document, window, draw) and counted by position, so batch size, order,
sharding and device change nothing, and two interpretations see the same draws (common random numbers).

1. SHA-256 of the key's text gives the 128-bit key of a Philox counter-based generator (Salmon et al.
   2011, "Parallel random numbers: as easy as 1, 2, 3").
2. Value i of position t is number t·width + i of its raw 64-bit output: NumPy's raw stream is fixed,
   while its `Generator` methods may change between versions.
3. Normal values by inversion, z = Φ⁻¹((u + ½)/2⁵²) with the upper 52 bits u: the most for which u + ½ is
   exact in float64. With 53, the largest u would round to 1, whose z is infinite.

Source: protocol 1, section 5.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from remainder.residual.philox import raw, upper_bits

__all__ = ["Draw", "NoiseKeys", "folds", "indices", "normal", "priorities"]


class NoiseKeys(NamedTuple):
    """The windows of a batch, by which its noise is keyed."""

    seed: int
    documents: tuple[str, ...]
    windows: tuple[int, ...]


@dataclass(frozen=True)
class Draw:
    """One draw. For kernels with normal noise, draws 2i and 2i + 1 are an antithetic pair, +z and −z."""

    index: int

    @property
    def pair(self) -> int:
        return self.index // 2

    @property
    def sign(self) -> int:
        return 1 - 2 * (self.index % 2)


def normal(
    places: NoiseKeys,
    draw: Draw,
    positions: int,
    width: int,
    stream: str = "normal",
    device: torch.device | str = "cpu",
) -> Float[Tensor, "docs pos width"]:
    """Standard normal values, float64; the second of an antithetic pair is the first one negated.

    Streams of different names are independent. On another device than the CPU the same counters are computed
    there, and values differ by the rounding of Φ⁻¹ alone.
    """
    name, count = f"{stream}|{draw.pair}", positions * width
    if torch.device(device).type == "cpu":
        upper = torch.from_numpy((_raw(places, name, count) >> np.uint64(12)).astype(np.float64))
    else:
        upper = upper_bits(raw([_key(text) for text in _texts(places, name)], count, device), 52).double()
    uniform = (upper + 0.5) * 2.0**-52
    z: Tensor = torch.special.ndtri(uniform)
    return draw.sign * z.reshape(len(places.documents), positions, width)


def indices(
    places: NoiseKeys,
    index: int,
    positions: int,
    size: int | Int[Tensor, "docs pos"],
    stream: str = "index",
) -> Int[Tensor, "docs pos"]:
    """Uniform indices below `size` (one for all, or one per position), independent between positions.

    `index` is the number of the draw, or of its pair where both halves should agree.
    """
    numbers = _raw(places, f"{stream}|{index}", positions)
    below = size.cpu().numpy().astype(np.uint64) if isinstance(size, Tensor) else np.uint64(size)
    # The modulo's bias is below size / 2⁶⁴.
    return torch.from_numpy((numbers % below).astype(np.int64))


def priorities(places: NoiseKeys) -> NDArray[np.uint64]:
    """One random 64-bit number per window [docs], by which windows enter a keyed reservoir."""
    return _raw(places, "priority", 1)[:, 0]


def folds(places: NoiseKeys, count: int) -> list[int]:
    """The fold, of `count`, of each window; all windows of a document share one."""
    return [
        int.from_bytes(hashlib.sha256(f"{places.seed}|fold|{document}".encode()).digest()[:8], "big") % count
        for document in places.documents
    ]


def _raw(places: NoiseKeys, stream: str, count: int) -> NDArray[np.uint64]:
    rows = [np.random.Philox(key=_key(text)).random_raw(count) for text in _texts(places, stream)]
    return np.stack(rows)


def _texts(places: NoiseKeys, stream: str) -> list[str]:
    """The text of the key of each window."""
    pairs = zip(places.documents, places.windows, strict=True)
    return [f"{places.seed}|{stream}|{document}|{window}" for document, window in pairs]


def _key(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")
