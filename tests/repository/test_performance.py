"""The page on performance is what `make bench` writes: by hand nothing gets into it."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
QUANTILES = dict(zip(("least", "quarter", "median", "three quarters", "most"), range(3, 8), strict=True))
UNITS = {"one step of edge attribution": 6.0, "0": 0.2, "0.05": 1.25, "random 0.05": 1.5, "1": 1.0}
FIGURES: dict[str, list[dict[str, Any]]] = {
    "start-up": [{"command": "tasks", "seconds": 0.25}],
    "passes": [{"call": "all", "first": 3.0, "further": 1.0}],
    "memory": [{"case": "some", "model": 1e9, "more": 2e8}],
    "rates": [{"what": "blocks", "GFLOP/s": 50.0, "of the machine": 0.7}],
    "engines": [{"engine": "ray", "rows": 24, "clock": 1.5, "cpu": 1.7}],
    "paired": [
        {"rung": "raw", "pairs": 66, "documents": 700, "correlation": 0.9, "drawn": 0.125, **QUANTILES}
    ],
    "circuits": [
        {"kind": "latents", "units": {"latents": 0.8}, "seconds": 0.5, "prompts": 16},
        {
            "kind": "edges",
            "units": UNITS,
            "seconds": 0.5,
            "prompts": 16,
            "passes": 63,
            "row": 120.0,
            "chance": 300.0,
        },
    ],
}


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_page", ROOT / "tests/benchmarks/page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def content(*groups: str) -> dict[str, Any]:
    return {
        "datetime": "2026-11-29T21:00:00",
        "machine_info": {
            "system": "Linux",
            "machine": "x86_64",
            "node": "somewhere",
            "cpu": {"count": 2, "flags": ["avx2"]},
        },
        "benchmarks": [{"group": group, "extra_info": row} for group in groups for row in FIGURES[group]],
    }


def test_a_group_that_ran_has_a_table_and_no_other(writer: ModuleType) -> None:
    found = writer.page(content("start-up", "rates"))
    assert re.findall(r"^## (.*)$", found, re.MULTILINE) == ["Arithmetic", "Start-up", "On a GPU"]
    assert "| `remainder tasks` | 0.25 |" in found
    assert "| blocks | 50 | 70% |" in found
    assert "somewhere" not in found


def test_circuits_are_told_in_units_of_a_plain_pass_and_summed_to_a_row(writer: ModuleType) -> None:
    found = writer.page(content("circuits"))
    assert "| 5.0% | 1.25 | 1.50 |" in found
    assert "(latents: 0.80)" in found
    assert "63 passes of each template" in found
    assert "2.0 minutes of one core" in found
    assert "once a task: 5.0 minutes" in found


def test_pairing_tells_what_limits_it(writer: ModuleType) -> None:
    found = writer.page(content("paired"))
    assert "| `raw` | 3.0 | 4.0 | 5.0 | 6.0 | 7.0 | 0.90 | 12% | 700 |" in found
    assert "by 1.33: 6.7 for the median pair" in found  # 4/3 of the median


def test_rows_of_a_table_have_as_many_cells_as_its_head(writer: ModuleType) -> None:
    found = writer.page(content(*FIGURES))
    tables = re.findall(r"(?:^\|.*\n)+", found, re.MULTILINE)
    assert len(tables) == len(FIGURES) + 2  # of a GPU
    for table in tables:
        assert len({line.count(" | ") for line in table.splitlines()}) == 1


def test_the_committed_page_is_of_this_writer(writer: ModuleType) -> None:
    page = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    assert page.startswith(writer.HEAD)
    assert page.count("\n## ") >= 4


def test_figures_of_a_gpu_are_those_that_are_committed(writer: ModuleType) -> None:
    found = json.loads(writer.GPU.read_text(encoding="utf-8"))
    assert writer.gpu(found) in (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    assert all(("seconds a row" in call) == ("busy" in call) for call in found["calls"])
    assert all("busy" in call or "peak GB" in call for call in found["calls"])
