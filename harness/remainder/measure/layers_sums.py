"""Sums over the documents of a chain of sites, while its windows go by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from remainder.record.layers import LayerSums, RungSums, SiteSums
from remainder.record.values import without_rounding

__all__ = ["Sums", "by_window"]

Array = NDArray[np.float64]


class Sums:
    """Sums over documents, by what is summed."""

    def __init__(self, keeps: Sequence[int], sites: int) -> None:
        self.keeps, self.sites = keeps, sites
        self._found: dict[Any, dict[str, float]] = {}

    def add(self, key: Any, names: Sequence[str], values: Array) -> None:
        """Add the values of some windows, whose documents have these names."""
        own = self._found.setdefault(key, {})
        for name, value in zip(names, values.tolist(), strict=True):
            own[name] = own.get(name, 0.0) + value

    @property
    def documents(self) -> tuple[str, ...]:
        """Sorted."""
        return tuple(sorted(self._found.get("tokens", ())))

    def of(self, key: Any) -> Array:
        """One sum, `[documents]`."""
        own = self._found[key]
        return np.array([own[name] for name in self.documents], dtype=np.float64)

    def of_shell(self, keep: int) -> LayerSums:
        """All sums of one k."""
        rungs = dict.fromkeys(key[1] for key in self._found if len(key) == 3 and key[0] == keep)
        tokens = self.of("tokens")

        def listed(key: Any) -> tuple[float, ...]:
            return tuple(self.of(key).tolist())

        def of_site(place: int, group: str) -> dict[str, tuple[float, ...]]:
            keys = [key for key in self._found if len(key) == 4 and key[:3] == (keep, place, group)]
            return {key[3]: listed(key) for key in keys}

        return LayerSums(
            rungs={
                rung: RungSums(
                    loss=listed((keep, rung, "loss")),
                    kl=tuple(without_rounding(self.of((keep, rung, "kl")), tokens).tolist()),
                    top1=listed((keep, rung, "top1")) if (keep, rung, "top1") in self._found else None,
                )
                for rung in rungs
            },
            sites=tuple(
                SiteSums(
                    activation=listed((keep, place, "activation", "")),
                    remainder=of_site(place, "remainder"),
                    arrival=of_site(place, "arrival"),
                )
                for place in range(self.sites)
            ),
        )


def by_window(values: Float[Tensor, " rows"], mask: Bool[Tensor, "docs pos"]) -> Array:
    """Sums over each window of what is given where `mask` holds, `[docs]`."""
    spread = torch.zeros(mask.shape, dtype=torch.float64, device=mask.device)
    spread[mask] = values.double()
    summed: Array = spread.sum(1).cpu().numpy()
    return summed
