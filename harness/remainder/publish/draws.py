"""The draw of the documents of a record that a review measures again: how many, and by which key.

1. **How many.** So many that no choice of a quarter of the documents avoids all of them. Of n documents a
   forger alters f; d are drawn without replacement. None of the altered ones is drawn with probability

       P(n, f, d) = C(n − f, d) / C(n, d)                                                (hypergeometric)

   which is 0 from d = n − f + 1 on. With f = ⌈n/4⌉ no push passes, and so no number of pushes does: their
   number need not be bounded, and could not be (a new name, a new account and a new time in the record are
   free). It costs three quarters of what evaluating the record took (for those of SmolLM2 15 to 215 s on two
   cores; four documents would take an eighth of that, and let every third push through).
2. **After failures.** An author with `PATIENCE` failed reviews, in whatever pull requests, has every document
   measured: somebody who alters fewer than a quarter, and tries again, soon has no chance either, but for a
   new account.
3. **By which key.** HMAC-SHA256 of the record's id under a secret of the repository, computed by a job that
   does nothing else (.github/workflows/review.yml). The same record draws the same documents whenever it is
   pushed; another record draws others, and nobody can compute them beforehand.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from remainder.base.files import SETTINGS, require_file
from remainder.errors import RecordError
from remainder.record.schema import Record

__all__ = ["PATIENCE", "SHARE", "Draws", "new_key", "number_drawn", "read_draws", "settings_of"]

SHARE = Fraction(1, 4)
"""Share of a record's documents that cannot be altered without one of them being drawn."""

PATIENCE = 3
"""Failed reviews of an author, in the whole repository, after which every document is measured again."""

_SEED = "draw"  # stands beside the key, which alone decides
_RECORD = re.compile(r"[0-9a-f]{64}")
_FIX = "give the file that the job `draw` makes: {record_id: key}, both of 64 hexadecimal digits"

Draws = Mapping[str, str]
"""The key of each record's draw, by its `record_id`."""


def number_drawn(documents: int, failed: int = 0) -> int:
    """The number of documents to measure again, of a record with `documents` of them.

    Args:
        documents: evaluation documents of the record, at least 1.
        failed: reviews of the same author that failed before.
    """
    if failed >= PATIENCE:
        return documents
    return documents - math.ceil(SHARE * documents) + 1


def settings_of(record: Record, key: str, *, documents: int | None = None, failed: int = 0) -> dict[str, Any]:
    """Arguments of `remeasure.rerun` for a record whose documents are drawn by `key`.

    Args:
        documents: how many; default: what `number_drawn` says.
        failed: reviews of the same author that failed before.
    """
    count = documents or number_drawn(record.documents.documents, failed)
    return {"documents": count, "seed": _SEED, "nonce": key}


def new_key() -> str:
    """A key that is drawn now, for a review by hand: 64 hexadecimal digits."""
    return secrets.token_hex(32)


def read_draws(path: Path) -> dict[str, str]:
    """Keys by record id, from a file of JSON.

    Raises:
        RecordError: if it is missing or something else.
    """
    require_file(path, most=SETTINGS, error=RecordError)
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as problem:
        raise RecordError(f"{path}: cannot be read as draws ({problem})", fix=_FIX) from problem
    if not isinstance(content, dict) or not all(
        _RECORD.fullmatch(name) and isinstance(key, str) and _RECORD.fullmatch(key)
        for name, key in content.items()
    ):
        raise RecordError(f"{path}: holds something other than keys by record id", fix=_FIX)
    return content
