"""Near and far on disk: `<results>/<task>/<N>/<submission>.<order>-<hash>.tissues`, and a table of tokens.

The hash in the name is that of what was measured: task, submission, orders, numbers of near sources, tissues
asked for, tier and dtype. The table lies beside it, under the same name and `.csv.gz`: a row a scored token.

Such a file proves itself: by the hash of its content, by that of the table, and by everything that follows
from both, which is computed once more. How many sources there are, which of them and which words stand out in
a tissue, and the sums of other orders only measuring again can tell.
"""

from __future__ import annotations

import gzip
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from remainder.base.files import require_file
from remainder.base.messages import message_of
from remainder.errors import RecordError
from remainder.record.joint import JointFile
from remainder.record.json import content_hash, sha256, write_atomically
from remainder.record.tissues import Summaries, Tissues, TissueValues, column_of, columns_of, summaries_of

__all__ = [
    "TISSUES",
    "identity",
    "identity_of",
    "place_of",
    "read_tissues",
    "rounded_values",
    "stored_tissues",
    "tissues_place",
    "tokens_place",
    "tokens_to_csv",
    "values_of",
    "write_tissues",
]

TISSUES = JointFile(Tissues, "tissues", "holds no tissues")
"""Files of near and far."""

_TABLE = ".csv.gz"
_PLACES = ["document", "window", "position", "tissue", "entropy"]
_DIGITS, _SMALLEST = 4, 7
"""Significant digits of a token's value, and decimals beyond which it is rounding."""
_ROUNDING, _NOTHING = 1e-4, 1e-9
"""Share of itself, and size, by which a platform may round a number otherwise."""
_LARGEST_TABLE = 200_000_000  # bytes


def identity_of(tissues: Tissues) -> str:
    """The hash of what was measured, and not of what came out."""
    keeps = [shell.keep for shell in tissues.follows.shells]
    return identity(
        tissues.task.hash,
        tissues.submission.hash,
        tissues.orders,
        keeps,
        tissues.asked,
        tissues.tier,
        tissues.dtype,
    )


def identity(
    task: str, submission: str, orders: Sequence[str], keeps: Sequence[int], asked: int, tier: str, dtype: str
) -> str:
    """`identity_of` something that is yet to be measured; task and submission by their hashes."""
    return content_hash([task, submission, list(orders), list(keeps), asked, tier, dtype])


def place_of(results: Path, task: str, version: str, submission: str, order: str, identity: str) -> Path:
    """The path below a folder of results; task and submission by their names."""
    name = f"{submission}.{order}-{identity[:12]}{TISSUES.ending}"
    return results / task / version.partition("-")[0] / name


def tissues_place(tissues: Tissues, results: Path) -> Path:
    """The path below a folder of results."""
    of = tissues.task, tissues.submission.name, tissues.orders[0]
    return place_of(results, of[0].id, of[0].version, of[1], of[2], identity_of(tissues))


def tokens_place(path: Path) -> Path:
    """The table of tokens that belongs to a file."""
    return path.with_name(path.name + _TABLE)


def rounded_values(tokens: pd.DataFrame) -> pd.DataFrame:
    """The table with its values as they are kept."""
    return _from_csv(_to_csv(tokens))


def tokens_to_csv(tokens: pd.DataFrame) -> bytes:
    """The table as it lies on disk, the same bytes for the same content."""
    return gzip.compress(_to_csv(tokens), mtime=0)


def write_tissues(found: Summaries, results: Path) -> Path:
    """Write a measurement and its table, each whole or not at all; gives the path of the former."""
    path = tissues_place(found.tissues, results)
    write_atomically(tokens_place(path), tokens_to_csv(found.tokens))
    return TISSUES.write(found.tissues, path)


def values_of(tissues: Tissues, tokens: pd.DataFrame) -> TissueValues:
    """The values that everything else of a file follows from."""
    return TissueValues(
        tissues.orders, tissues.sources, tokens, tissues.sums, tissues.unmeasured, tissues.follows.tissues
    )


def stored_tissues(path: Path) -> Summaries:
    """A measurement with its table, the hashes of both verified; whether one follows from the other is not.

    Raises:
        RecordError: a file is missing, damaged or was edited.
    """
    tissues = TISSUES.read(path)
    table = tokens_place(path)
    require_file(table, most=_LARGEST_TABLE, error=RecordError)
    data = table.read_bytes()
    if sha256(data) != tissues.values_sha256:
        raise TISSUES.fault(path, "the table beside it is not the one that it was made from")
    try:
        tokens = _from_csv(gzip.decompress(data))
        _require_table(tissues, tokens)
    except (OSError, EOFError, ValueError, KeyError) as problem:
        raise TISSUES.fault(table, f"holds no values of tokens ({message_of(problem)})") from problem
    return Summaries(tissues, tokens)


def read_tissues(path: Path) -> Summaries:
    """A measurement with its table, all of it verified.

    Raises:
        RecordError: a file is missing, damaged or was edited, or something does not follow from the values.
    """
    tissues, tokens = stored_tissues(path)
    try:
        follows = summaries_of(values_of(tissues, tokens), seed=tissues.seed)
    except (ValueError, IndexError) as problem:
        raise TISSUES.fault(path, f"its values do not belong together ({message_of(problem)})") from problem
    if wrong := _difference(follows.model_dump(mode="json"), tissues.follows.model_dump(mode="json"), ""):
        raise TISSUES.fault(path, f"{wrong} does not follow from the values of its tokens")
    return Summaries(tissues, tokens)


def _require_table(tissues: Tissues, tokens: pd.DataFrame) -> None:
    """Raise ValueError unless the table is of the size, tissues and columns that the file says."""
    keeps = [shell.keep for shell in tissues.follows.shells]
    lacking = tissues.unmeasured.get(tissues.orders[0], {})
    wanted = {
        column_of(name, keep)
        for keep in keeps
        for name in columns_of()
        if name.removeprefix("kl_") not in lacking.get(str(keep), {})
    }
    if {*tokens.columns} != {*_PLACES, *wanted}:
        raise ValueError(f"columns missing or foreign: {sorted({*tokens.columns} ^ {*_PLACES, *wanted})[:3]}")
    if (len(tokens), tokens["document"].nunique()) != (tissues.tokens, tissues.documents):
        raise ValueError("it has other tokens or documents")
    if not tokens["tissue"].between(0, len(tissues.follows.tissues) - 1).all():
        raise ValueError("a tissue is not among those listed")
    if not np.isfinite(tokens[sorted(wanted)].to_numpy()).all():
        raise ValueError("a value is missing")


def _difference(found: Any, stated: Any, place: str) -> str | None:
    """The place of the first difference between two trees."""
    if isinstance(found, dict) and isinstance(stated, dict) and found.keys() == stated.keys():
        pairs = [(f"{place}.{key}" if place else key, found[key], stated[key]) for key in found]
    elif isinstance(found, list) and isinstance(stated, list) and len(found) == len(stated):
        pairs = [(f"{place}[{number}]", *pair) for number, pair in enumerate(zip(found, stated, strict=True))]
    else:
        numbers = isinstance(found, float) and isinstance(stated, float)
        same = (
            math.isclose(found, stated, rel_tol=_ROUNDING, abs_tol=_NOTHING) if numbers else found == stated
        )
        return None if same else place
    return next((wrong for at, one, other in pairs if (wrong := _difference(one, other, at))), None)


def _to_csv(tokens: pd.DataFrame) -> bytes:
    table = tokens.sort_values(["document", "window", "position"], ignore_index=True)
    values = [name for name in table.columns if name not in _PLACES]
    written = {name: _short(table[name].to_numpy(dtype=np.float64)) for name in ["entropy", *values]}
    table = pd.DataFrame({**{name: table[name] for name in _PLACES[:-1]}, **written})
    text: str = table.to_csv(index=False, lineterminator="\n")
    return text.encode()


def _short(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> list[str]:
    """Few digits each; nothing for what is missing."""
    return [
        "" if np.isnan(value) else f"{float(f'{value:.{_DIGITS}g}') + 0.0:.12g}"
        for value in np.round(values, _SMALLEST)
    ]


def _from_csv(data: bytes) -> pd.DataFrame:
    head = pd.read_csv(io.BytesIO(data), nrows=0).columns
    types = dict.fromkeys(head, "float64") | {"document": "str"}
    types |= dict.fromkeys(("window", "position", "tissue"), "int64")
    return pd.read_csv(
        io.BytesIO(data),
        dtype=types,
        keep_default_na=False,  # a document may be called "NA"
        na_values={"entropy": [""]},
    )
