"""Figures of flows: places of k, shares of a gap, and the control that stands beside a model."""

from __future__ import annotations

import pytest

from remainder.base.paths import project_root
from remainder.record.number import Number
from remainder.report.chain_of_shells import CHAIN
from remainder.report.plot_flow import Ruler, _shares
from remainder.task.script import load_script


@pytest.mark.parametrize(
    "keep", [pytest.param(k, marks=() if k == 5 else pytest.mark.slow) for k in range(8)]
)
def test_the_chain_beside_a_model_is_that_of_the_formulas(keep: int) -> None:
    sums = load_script(project_root() / "tasks" / "controls" / "sums" / "expected.py")
    known = sums.expected(sums.Parameters(branching=2, kept=keep))
    named = {"rho_even": "rho even", "rho_odd": "rho odd", "perturbativity": "perturbativity"}
    for key, name in named.items():
        assert CHAIN[key][keep] == pytest.approx(known[name], abs=6e-5)
    # κ̂ = E w⁴ / 3 − 1 in one dimension
    assert CHAIN["kurtosis"][keep] == pytest.approx(known["kurtosis"] / 3, abs=6e-5)


def test_nothing_kept_stands_apart_and_all_others_are_logarithmic() -> None:
    ruler = Ruler.of((0, 1, 2, 4, 8))
    assert [ruler(keep) for keep in (1, 2, 4, 8)] == [0, 1, 2, 3]
    assert ruler(0) < ruler(1) - ruler.step
    assert Ruler.of((2, 3, 4))(2) == 1
    assert Ruler.of((0, 5))(0) < Ruler.of((0, 5))(5)


def test_shells_are_labelled_as_far_as_there_is_room() -> None:
    keeps = (0, *range(1, 200))
    few = Ruler.of(keeps).labelled(2.0)
    assert {0, 199} <= set(few) < set(keeps)
    assert few == sorted(few)
    assert Ruler.of((0, 1, 2, 4)).labelled(2.0) == [0, 1, 2, 4]


def test_shares_are_of_the_sum_and_of_nothing_else() -> None:
    parts = [Number.bare(value, "a draw") for value in (0.3, -0.1, 0.2)]
    assert _shares(parts) == pytest.approx([75, -25, 50])
    assert _shares([*parts, Number.null("not measured")]) == []
    assert _shares([Number.bare(-0.1, "a draw")]) == []
