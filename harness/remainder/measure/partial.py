"""Batches of a measurement that are finished: a run that was stopped, or is spread out, makes none twice.

What a batch of evaluation windows gives depends on the measurement and on these windows alone, so it is kept
under the measurement key and the windows. Everything that is fitted is fitted again; that takes no pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from remainder.loading.activations import Batch
from remainder.record.json import content_hash

__all__ = ["Finished", "batch_key", "packed", "unpacked"]


@runtime_checkable
class Finished(Protocol):
    """A store of finished batches; contents are JSON without NaN."""

    def get(self, key: str) -> Mapping[str, Any] | None:
        """The content that was put under this key, if there was any."""
        ...

    def put(self, key: str, content: Mapping[str, Any]) -> None:
        """Keep a batch, whole or not at all."""
        ...


def batch_key(measurement: str, batch: Batch) -> str:
    """The key of a batch of windows of a measurement."""
    windows = [list(pair) for pair in zip(batch.windows.documents, batch.windows.indices, strict=True)]
    return content_hash({"measurement": measurement, "windows": windows})


def packed(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows as JSON can hold them: null in place of NaN."""

    def one(value: Any) -> Any:
        return None if isinstance(value, float) and math.isnan(value) else value

    return [{name: one(value) for name, value in row.items()} for row in rows]


def unpacked(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows that `packed` was given."""
    return [{name: math.nan if value is None else value for name, value in row.items()} for row in rows]
