"""Intervals of tables that were measured: none leaves the range of its quantity, or lies beside its value."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from remainder.base.paths import project_root
from remainder.record.summary import summaries_of
from remainder.record.values import values_from_csv

ARCHIVE = project_root() / "leaderboard" / "archive" / "1" / "results"
LOWEST = {
    "loss": 0,
    "kl": 0,
    "accuracy": 0,
    "top1": 0,
    "fitted": 0,
    "directional": 0,
    "isotropic": 0,
    "l0": 0,
}
HIGHEST = {"accuracy": 1, "top1": 1, "explained_variance": 1}
HARD = (
    "tiny/induction-circuit",  # one document holds nearly all of a KL
    "tiny/induction-heads",
    "tracr/histogram-circuit",  # 30 documents alike, and three that are 0
)
"""Tasks whose intervals once reached from −726,300 to 9.77."""


def drawn() -> list[Path]:
    """Every 40th table, and all of the tasks that were hard."""
    paths = sorted(path for path in ARCHIVE.rglob("*.csv.gz"))
    hard = [path for path in paths if any(name in path.as_posix() for name in HARD)]
    return sorted({*paths[::40], *hard[::3]})


def numbers(content: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """All numbers of a summary with their dotted places."""
    if isinstance(content, dict):
        if {"value", "low", "high"} <= content.keys():
            yield place, content
        else:
            for name, part in content.items():
                yield from numbers(part, f"{place}.{name}")


@pytest.mark.parametrize("path", drawn(), ids=lambda path: path.name[:8])
def test_no_interval_of_a_measured_table_is_impossible(path: Path) -> None:
    seed = json.loads(path.with_name(path.name.replace(".csv.gz", ".json")).read_text())["measurement"][
        "seed"
    ]
    found = summaries_of(values_from_csv(gzip.decompress(path.read_bytes())), seed=seed)
    content = {"metrics": found.metrics.model_dump(mode="json")}
    content["complexity"] = {
        name: number.model_dump(mode="json") for name, number in found.complexity.items()
    }
    compared = 0
    for place, number in numbers(content):
        value, low, high = number["value"], number["low"], number["high"]
        assert value is not None or number["reason"], place
        if low is None:
            continue
        name = place.rpartition(".")[2]
        assert LOWEST.get(name, low) <= low <= value <= high <= HIGHEST.get(name, high), (place, number)
        longer, shorter = sorted((value - low, high - value), reverse=True)
        # Where the ends are told apart in the last of six digits only, their rounding says nothing of sides.
        assert longer <= 20 * shorter or longer < 1e-4 * abs(value), (place, number)
        compared += 1
    assert compared > 10
