"""All calibration windows with what conditional kernels may see: x̂, codes, tokens; and the residual itself.

A bank is bounded and lies in memory. Here every window is kept, in temporary files that are mapped into
memory: the operating system holds as much of them as there is room for, so that memory does not grow with
the number of windows. Windows come out in the order of keyed random priorities, whatever order they came in:
the first so many of them are a sample.

Source: protocol 2, section 4.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from remainder.record.rungs import FOLDS
from remainder.residual.codes import Codes
from remainder.residual.noise import NoiseKeys, folds, priorities

__all__ = ["Rows", "Seen", "Some"]

_BLOCK = 4096
"""Positions that are looked at together."""


class Seen(NamedTuple):
    """Windows as conditional kernels see them."""

    reconstruction: Float[Tensor, "docs pos d"]
    mask: Bool[Tensor, "docs pos"]
    codes: Codes | None = None
    """Codes of the positions where `mask` holds, in their order."""
    tokens: Int[Tensor, "docs pos"] | None = None


class Some(NamedTuple):
    """Some calibration windows."""

    seen: Seen
    residual: Float[Tensor, "docs pos d"]

    @property
    def rows(self) -> Float[Tensor, "rows d"]:
        """Residuals where something is spliced, float32."""
        return self.residual[self.seen.mask]


class _File:
    """Arrays of one shape, written one after another and read back by their place."""

    def __init__(self, dtype: str, shape: tuple[int, ...] = ()) -> None:
        self._dtype, self._shape, self.count = np.dtype(dtype), shape, 0
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as this does)
        weakref.finalize(self, self._file.close)
        self._map: NDArray[np.generic] | None = None

    def append(self, values: Tensor) -> None:
        array = np.ascontiguousarray(values.detach().cpu().numpy(), dtype=self._dtype)
        self._file.write(array.tobytes())
        self.count += len(array)
        self._map = None

    def __getitem__(self, rows: slice | list[int]) -> Tensor:
        if not self.count or 0 in self._shape:  # nothing can be mapped
            return torch.from_numpy(np.empty((self.count, *self._shape), dtype=self._dtype)[rows])
        if self._map is None:
            self._file.flush()
            self._map = np.memmap(self._file, self._dtype, "r", shape=(self.count, *self._shape))
        return torch.from_numpy(np.array(self._map[rows]))


@dataclass
class Rows:
    """Windows of the calibration split, one after another, and the fold that each belongs to."""

    width: int
    with_codes: bool = True
    """Whether every window came with codes."""
    with_tokens: bool = True
    features: int = 0
    windows: list[tuple[str, int]] = field(default_factory=list)
    sums: dict[int, Tensor] = field(default_factory=dict)
    """Sums of the residuals of each fold, float64."""
    _keys: list[int] = field(default_factory=list)
    _folds: list[int] = field(default_factory=list)
    _sizes: list[int] = field(default_factory=list)
    """Spliced positions of each window."""
    _entries: list[int] = field(default_factory=lambda: [0])
    """The place where the codes of each window begin, and one end."""
    _files: dict[str, _File] = field(default_factory=dict)

    def update(self, places: NoiseKeys, seen: Seen, residual: Float[Tensor, "docs pos d"]) -> None:
        """Add a batch of windows; what stands where `mask` does not hold is not kept."""
        windows = list(zip(places.documents, places.windows, strict=True))
        keys = [int(key) for key in priorities(places)]
        self._add(seen, residual, windows, keys, folds(places, FOLDS))

    def _add(
        self, seen: Seen, residual: Tensor, windows: list[tuple[str, int]], keys: list[int], dealt: list[int]
    ) -> None:
        positions = seen.mask.shape[1]
        self._file("mask", "bool", positions).append(seen.mask)
        for name, values in (("reconstruction", seen.reconstruction), ("residual", residual)):
            kept = torch.where(seen.mask[..., None], values, 0.0).float()
            self._file(name, "float32", positions, values.shape[-1]).append(kept)
        sizes = seen.mask.sum(1).tolist()
        self._add_codes(seen.codes, sizes)
        if seen.tokens is None:
            self.with_tokens = False
        else:
            self._file("tokens", "int64", positions).append(seen.tokens)
        for own, rows, here in zip(dealt, residual, seen.mask, strict=True):
            total = rows[here].double().sum(0).cpu()
            self.sums[own] = self.sums[own] + total if own in self.sums else total
        self.windows += windows
        self._keys += keys
        self._folds += dealt
        self._sizes += sizes

    def merge(self, other: Rows) -> None:
        """Add the windows of `other`."""
        for place, (key, fold) in enumerate(zip(other._keys, other._folds, strict=True)):
            self._add(*other.some([place]), [other.windows[place]], [key], [fold])

    def _add_codes(self, codes: Codes | None, sizes: Sequence[int]) -> None:
        if codes is None:
            self.with_codes = False
            return
        self.features = codes.features
        self._file("latent", "int32").append(codes.latent)
        self._file("value", "float32").append(codes.value)
        self._file("entries", "int32").append(torch.bincount(codes.token, minlength=codes.tokens))
        window = np.repeat(np.arange(len(sizes)), sizes)[codes.token.cpu().numpy()]
        ends = self._entries[-1] + np.cumsum(np.bincount(window, minlength=len(sizes)))
        self._entries += ends.tolist()

    def _file(self, name: str, dtype: str, *shape: int) -> _File:
        if name not in self._files:
            self._files[name] = _File(dtype, shape)
        return self._files[name]

    def __len__(self) -> int:
        return sum(self._sizes)

    def count(self, windows: Sequence[int]) -> int:
        """Rows of some windows."""
        return sum(self._sizes[place] for place in windows)

    def mean(self, without: int | None = None) -> Float[Tensor, " d"]:
        """The mean residual of all windows, or of all but one fold's; float64."""
        chosen = [fold for fold in self.sums if fold != without]
        count = self.count(self.order(without=without))
        return torch.stack([self.sums[fold] for fold in chosen]).sum(0) / max(count, 1)

    def folds_of(self, windows: Sequence[int]) -> Int[Tensor, " rows"]:
        """The fold of each row of some windows."""
        sizes = torch.tensor([self._sizes[place] for place in windows])
        return torch.repeat_interleave(torch.tensor([self._folds[place] for place in windows]), sizes)

    def order(self, fold: int | None = None, *, without: int | None = None) -> list[int]:
        """Places of all windows, of one fold's, or of all others', by random priority."""
        chosen = [
            place
            for place, own in enumerate(self._folds)
            if self._sizes[place] and (fold is None or own == fold) and (without is None or own != without)
        ]
        return sorted(chosen, key=lambda place: (self._keys[place], self.windows[place]))

    def first(self, windows: Sequence[int], rows: int) -> list[int]:
        """The first of these windows, no more than have so many rows together; at least one."""
        total = np.cumsum([self._sizes[place] for place in windows])
        return list(windows[: max(int(np.searchsorted(total, rows, side="right")), 1)])

    def some(self, windows: Sequence[int]) -> Some:
        """Gives the windows at these places, in this order."""
        at = list(windows)
        tokens = self._files["tokens"][at] if self.with_tokens else None
        codes = self._codes(at) if self.with_codes else None
        mask, reconstruction, residual = (
            self._files[name][at] for name in ("mask", "reconstruction", "residual")
        )
        return Some(Seen(reconstruction, mask, codes, tokens), residual)

    def blocks(self, windows: Sequence[int]) -> Iterator[Some]:
        """Gives these windows, a few at a time."""
        if not windows:
            return
        step = max(1, _BLOCK // self._files["mask"][:1].shape[1])
        for start in range(0, len(windows), step):
            yield self.some(windows[start : start + step])

    def _codes(self, windows: Sequence[int]) -> Codes:
        starts = np.concatenate([[0], np.cumsum(self._sizes)]).tolist()
        parts = []
        for place in windows:
            entries = slice(self._entries[place], self._entries[place + 1])
            number = self._files["entries"][starts[place] : starts[place + 1]].long()
            token = torch.repeat_interleave(torch.arange(len(number)), number)
            latent, value = self._files["latent"][entries].long(), self._files["value"][entries]
            parts.append(Codes(token, latent, value, len(number), self.features))
        return Codes.joined(parts)
