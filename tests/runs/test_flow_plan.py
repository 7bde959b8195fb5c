"""How many shells a flow has, what each is measured with, and what the command refuses or foresees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from terminal import Command
from tiny import Shrink, make_loaded

from remainder.errors import TaskError
from remainder.record.flow_file import read_flow
from remainder.report.flow import render_flow
from remainder.runs.flow import flow_plan, keeps_of, measure_flow, plan_flow, sharp_of
from remainder.submission.objects import object_submission

CHAIN = "controls/shell-chain-2"


def test_three_shells_spread_in_log_k_have_more_draws() -> None:
    assert sharp_of((0, 1, 2, 4, 8, 16, 32)) == {1, 4, 32} or sharp_of((0, 1, 2, 4, 8, 16, 32)) == {1, 8, 32}
    assert sharp_of((0, 1, 10, 90, 100)) == {1, 10, 100}
    assert sharp_of((0, 5, 7)) == {5, 7}


def test_what_every_shell_is_measured_with() -> None:
    loaded = make_loaded()
    entry = object_submission(Shrink(), "shrink")
    for also, draws, elsewhere in (((), 16, 8), (("coupled", "cluster"), 16, 8)):
        planned = plan_flow(
            loaded,
            entry,
            flow_plan(loaded, "quick", None, None, more=also),
            order="index",
            keeps=(0, 1, 2, 4, 16),
        )
        sharp = sharp_of((0, 1, 2, 4, 16))
        keys = set()
        for keep, shell in planned.shells.items():
            settings = planned.plan_of(keep)
            assert {*also} <= {*settings.rungs}
            assert (
                settings.draws("full-0.6")
                == settings.draws("full")
                == (draws if keep in sharp else elsewhere)
            )
            assert settings.couples == ("coupled" in also)
            if settings.couples:
                assert settings.draws("coupled") == settings.draws("full")
            assert settings.draws("permuted") == 2
            assert settings.tests_gaussianity  # at a narrow site unasked
            assert not settings.describes
            keys |= {settings.key(loaded.task, shell), planned.plan.key(loaded.task, shell)}
        # Fewer draws are another measurement.
        assert len(keys) == len(planned.shells) + len(planned.shells.keys() - sharp)
    with pytest.raises(TaskError, match="there is no rung 'fame'"):
        flow_plan(loaded, "quick", None, None, more=("fame",))


@pytest.mark.slow
def test_amplitudes_are_fitted_in_every_shell(tmp_path: Path, remainder: Command) -> None:
    loaded = make_loaded()
    settings = flow_plan(loaded, "quick", None, None, more=("coupled",))
    entry = object_submission(Shrink(), "shrink")
    found = measure_flow(plan_flow(loaded, entry, settings, order="index", keeps=(0, 4, 16)), tmp_path)
    assert found.flow.scales["bath"].criterion == "couplings"
    for keep, record in zip((0, 4, 16), found.records, strict=True):
        metrics, stated = record.metrics, record.measurement
        assert metrics.couplings is not None
        assert metrics.couplings.difference is not None
        assert metrics.gaussianity is not None
        assert stated.annealed_draws == (16 if keep in sharp_of((0, 4, 16)) else 8)
        assert {"coupled", "scaled", "gaussianity"} <= {*stated.rungs}
        assert not stated.whole
        assert set(record.complexity.coding.steps if record.complexity.coding else ()) == {"coded"}
    text = render_flow(*found)
    assert max(map(len, text.splitlines())) <= 80
    assert "it helps (at α*, β*)" in text
    (kept,) = tmp_path.rglob("*.flow")
    assert read_flow(kept) == found
    outcome = remainder("verify", str(tmp_path))
    assert outcome.code == 0, outcome.out


def test_shells_fall_by_a_ratio() -> None:
    assert keeps_of(32, 2.0) == (0, 1, 2, 4, 8, 16, 32)
    assert keeps_of(32, 2.0, shells=4) == (0, 8, 16, 32)
    assert keeps_of(5, 1.3) == (0, 1, 2, 3, 4, 5)
    assert keeps_of(1, 2.0) == (0, 1)


@pytest.mark.parametrize(
    ("ratio", "shells", "says"),
    [(1.0, None, "not above 1"), (np.nan, None, "not above 1"), (2.0, 1, "one shell")],
)
def test_shells_that_cannot_be(ratio: float, shells: int | None, says: str) -> None:
    with pytest.raises(TaskError, match=says):
        keeps_of(32, ratio, shells)


def test_an_estimate_measures_nothing(remainder: Command, tmp_path: Path) -> None:
    arguments = (CHAIN, "--with", "identity", "--order", "index", "--keep", "0,4")
    outcome = remainder("flow", *arguments, "--estimate", "--out", str(tmp_path / "out"))
    assert outcome.code == 0
    assert outcome.out.startswith("shells that keep 0, 4 of 8 (index)\npasses: ")
    assert "2 submission(s)" in outcome.out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((CHAIN, "--with", "identity", "--order", "fame"), "no order of keeping"),
        ((CHAIN, "--with", "identity", "--keep", "1,x"), "'x' is no number"),
        ((CHAIN, "--with", "identity", "--ratio", "1"), "not above 1"),
        ((CHAIN, "--with", "identity", "--save", "flow.txt"), "flow.txt"),
        ((CHAIN, "--with", "nobody"), "nobody"),
        ((CHAIN, "--with", "identity", "--also", "coupled,fame"), "there is no rung 'fame'"),
        (("tiny/induction-circuit", "--with", "other-circuit", "--also", "coupled"), "no rung 'coupled'"),
        ((CHAIN, "--with", "identity", "--keep", "1,2", "--shells", "3"), "--keep names the shells"),
        ((CHAIN, "--with", "identity", "--documents", "100000"), "documents is 100000"),
        (("tiny/induction-circuit", "--with", "identity"), "identity"),
        (
            ("tiny/induction-circuit", "--with", "other-circuit", "--keep", "0,2", "--order", "energy"),
            "--order, --keep: other-circuit has circuits",
        ),
    ],
)
def test_the_command_says_what_is_wrong(
    arguments: tuple[str, ...], says: str, remainder: Command, tmp_path: Path
) -> None:
    outcome = remainder("flow", *arguments, "--out", str(tmp_path / "out"))
    assert outcome.code != 0
    assert says in outcome.err
    assert not (tmp_path / "out").exists()
