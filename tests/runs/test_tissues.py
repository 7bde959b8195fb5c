"""Near and far end to end: controls whose tissues are known, a small compiled program, and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from terminal import Command

from remainder.errors import RecordError, TaskError
from remainder.loading.open import open_task
from remainder.record.tissues_file import read_tissues
from remainder.runs.tissues import measure_tissues, plan_tissues, require_tissues, tissues_plan
from remainder.submission.open import submissions_for
from remainder.validation.claims import parse_quantity
from remainder.validation.run import controls
from remainder.validation.tissues import IN_TISSUES, measure_tissues_of
from remainder.validation.verdict import Finding, judge


def test_what_can_be_refused_at_once_is() -> None:
    for orders, keeps, asked, what in (
        (["fame"], None, None, "'fame' is no order of near sources"),
        (["dynamic", "dynamic"], None, None, "twice"),
        (["index", "random"], None, None, "counts sources of the dictionary"),
        (None, None, 0, "--tissues 0"),
    ):
        with pytest.raises(TaskError, match=what):
            require_tissues(orders, keeps, None, None, asked)
    with pytest.raises(TaskError, match="--ratio or --shells would choose them"):
        require_tissues(None, [1], 2.0, None, None)
    with pytest.raises(TaskError, match="no quantity"):
        parse_quantity("3: tau2 height", "x")
    assert parse_quantity("3: spread shape", "x").kind == "spread"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["controls/gaussian-equivalence", "flows/squared-loss", "tracr/histogram"])
def test_tissues_of_controls(name: str) -> None:
    """One shape on Gaussian equivalence, nothing at all under squared loss, and much of a program."""
    (control,) = [one for one in controls() if one.task.id == name]
    findings = []
    for seed in (control.task.seed, 271828):
        claims = [one for one in control.claims(seed) if one.interpretation.endswith(IN_TISSUES)]
        loaded = open_task(control.task.model_copy(update={"seed": seed}), device="cpu")
        quantities = [claim.quantity for claim in claims]
        found = measure_tissues_of(loaded, claims[0].interpretation, "quick", quantities)
        findings += [Finding(name, seed, claim, found.read(claim.quantity)) for claim in claims]
    assert all(one.passed for one in judge(findings)), findings


@pytest.mark.slow
def test_a_compiled_program_has_tissues(remainder: Command, tmp_path: Path) -> None:
    out = tmp_path / "results"
    arguments = ("tissues", "tracr/histogram", "--with", "keep-all-read", "--out", str(out))
    outcome = remainder(*arguments, "--format", "json", "--save", str(tmp_path / "a.png"))
    assert outcome.code == 0, outcome.err
    content = json.loads(outcome.out)
    first, second, whole = content["follows"]["shells"]
    assert first["between"]["full"]["variance"] > 1
    assert first["between"]["full"]["p"] < 0.001
    assert whole["orders"]["attribution"]["raw"]["value"] == 0
    assert second["orders"].keys() == {"attribution", "dynamic", "random"}
    (path,) = tmp_path.rglob("*.tissues")
    assert json.loads(remainder("explain", str(path), "--format", "json").out) == content
    verified = remainder("verify", str(out))
    assert verified.code == 0, verified.out + verified.err
    foreseen = remainder(*arguments, "--estimate")
    assert "0, 1, 2 near sources of 2, by attribution, dynamic, random" in foreseen.out, foreseen.err
    assert "time: about" in foreseen.out


@pytest.mark.slow
def test_what_has_no_near_sources_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    loaded = open_task("tracr/histogram", device="cpu")
    settings = tissues_plan(loaded, "quick", None, None)
    (entry,) = submissions_for(loaded, ["keep-all-read"])
    with pytest.raises(TaskError, match="keep-all-read has 2 sources at one token"):
        plan_tissues(loaded, entry, settings, keeps=[0, 3])
    assert not list(tmp_path.iterdir())
    one = plan_tissues(loaded, entry, settings, orders=["dynamic"], keeps=[1], asked=1)
    found = measure_tissues(one, tmp_path).tissues
    assert [verdict.reason for verdict in found.follows.statements["near"]] == [
        "one order alone was measured"
    ]
    (path,) = tmp_path.rglob("*.tissues")
    before = path.stat().st_mtime_ns
    assert measure_tissues(one, tmp_path).tissues == read_tissues(path).tissues
    assert path.stat().st_mtime_ns == before  # found again
    path.write_text(path.read_text(encoding="utf-8").replace('"dynamic"', '"random"', 1), encoding="utf-8")
    with pytest.raises(RecordError, match="--fresh"):  # and what is damaged is not replaced in silence
        measure_tissues(one, tmp_path)
    with pytest.raises(TaskError, match="no activations at a site"):
        tissues_plan(open_task("tiny/induction-circuit", device="cpu"), "quick", None, None)
