"""Records in results agree with themselves; docs/findings.md is written from those in the archive."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import numpy as np
import pytest

from remainder.base.paths import project_root
from remainder.record.recompute import recompute
from remainder.record.schema import Record
from remainder.record.store import read_record

RESULTS = sorted((project_root() / "leaderboard" / "results").rglob("*.json"))
ARCHIVE = sorted((project_root() / "leaderboard" / "archive").rglob("results/**/*.json"))


@pytest.fixture(scope="module")
def findings() -> ModuleType:
    path = project_root() / "docs" / "examples" / "findings.py"
    spec = importlib.util.spec_from_file_location("findings_page", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_there_are_records() -> None:
    assert len(RESULTS) >= 162
    assert len(ARCHIVE) == 254


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: "/".join(path.parts[-5:-1]))
def test_every_number_follows_from_the_values_beside_it(path) -> None:
    record, values = read_record(path)
    recompute(record, values)
    assert record.provenance.git_commit


def test_the_page_has_the_tables_of_the_records(findings: ModuleType) -> None:
    page = findings.PAGE.read_text(encoding="utf-8")
    assert findings.filled(page, findings.tables()) == page


@pytest.mark.parametrize(("task", "but"), [("resid-15", ()), ("mlp-15", ("transcoder-32",))])
def test_what_was_trained_beats_pca_at_equal_bits(
    findings: ModuleType, task: str, but: tuple[str, ...]
) -> None:
    """On raw KL, upper end of its interval against PCA interpolated between ranks (log KL over log bits)."""
    chosen = findings.records(task)

    def point(record: Record) -> tuple[float, float]:
        bits, kl = record.complexity.bits_per_token.value, record.metrics.rungs["raw"].quenched.kl
        assert bits is not None
        assert kl.value is not None
        assert kl.high is not None
        return bits, kl.high if findings.is_sparse(record) else kl.value

    curve = sorted(point(record) for record in chosen if record.submission.name.startswith("pca-"))
    bits, kls = (np.log([pair[axis] for pair in curve]) for axis in (0, 1))
    # A plain transcoder has to compute what PCA is given; the page says that it ties.
    trained = [
        record for record in chosen if findings.is_sparse(record) and record.submission.name not in but
    ]
    assert trained
    for record in trained:
        own, high = point(record)
        assert bits[0] < np.log(own) < bits[-1], f"{record.submission.name}: no PCA of nearly as many bits"
        assert np.log(high) < np.interp(np.log(own), bits, kls), record.submission.name
