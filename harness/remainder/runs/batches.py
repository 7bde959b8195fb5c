"""Finished batches of rows in progress, so that a run that is killed loses the batch in progress only.

They lie in `.runs/batches` of the folder of results, each whole or not at all, under the hash of what it
depends on; their names do not end as those of records do. When nothing is being measured there any more they
are removed: the records hold all.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from remainder.errors import RecordError
from remainder.record.json import write_atomically
from remainder.record.turns import RUNS

__all__ = ["Batches"]


class Batches:
    """The store of finished batches of the results in one folder."""

    def __init__(self, out: Path) -> None:
        self._folder = out / RUNS / "batches"

    def get(self, key: str) -> Mapping[str, Any] | None:
        """The content that was put under this key, if there was any; what cannot be read is not there."""
        try:
            content: Mapping[str, Any] = json.loads((self._folder / f"{key}.batch").read_bytes())
        except (OSError, ValueError):
            return None
        return content

    def put(self, key: str, content: Mapping[str, Any]) -> None:
        """Keep a batch.

        Raises:
            OSError: it cannot be written, which is nothing that the row in progress could help.
        """
        try:
            write_atomically(self._folder / f"{key}.batch", json.dumps(content, allow_nan=False).encode())
        except RecordError as problem:
            raise problem.__cause__ or problem from None

    def remove(self) -> None:
        """Remove all."""
        shutil.rmtree(self._folder, ignore_errors=True)
