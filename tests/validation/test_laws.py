"""Laws of documents: their truths, and what their coverage is counted from."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from remainder.record.intervals import Bootstrap, Ratio
from remainder.validation.coverage import render_coverage
from remainder.validation.laws import LAWS, cover_laws
from remainder.validation.page import markdown
from remainder.validation.run import Validation


@pytest.mark.parametrize("name", [name for name in LAWS if not name.startswith("ratio")])
def test_truths_are_means_of_many_documents(name: str) -> None:
    above, below = LAWS[name].draw(np.random.default_rng(3), 400_000)
    error = above.std() / 400_000**0.5
    assert above.sum() / below.sum() == pytest.approx(LAWS[name].truth, abs=4 * error)


def test_the_truth_of_the_ratio_is_that_of_its_two_means() -> None:
    """A mean of so heavy a law is not found by sampling: from its logarithms, which are normal."""
    above, below = (
        np.log(part) for part in LAWS["ratio, heavy below"].draw(np.random.default_rng(4), 400_000)
    )
    means = [np.exp(part.mean() + part.var() / 2) for part in (above, below)]
    assert means[0] / means[1] == pytest.approx(LAWS["ratio, heavy below"].truth, rel=0.03)


def test_shares_are_counted_set_by_set() -> None:
    found = cover_laws(documents=(12,), replications=20)
    assert [one.interpretation for one in found] == list(LAWS)
    for number, one in enumerate(found):
        generator = np.random.default_rng([0, number, 12])
        law = LAWS[one.interpretation]
        estimates = [
            Bootstrap(12, seed=seed).estimate(Ratio(*law.draw(generator, 12), "positive"))
            for seed in range(20)
        ]
        given = [each for each in estimates if each.low is not None]
        assert one.sets == len(given)
        assert one.held == pytest.approx(
            np.mean([each.low <= law.truth <= each.high for each in given])  # type: ignore[operator]
        )


def test_near_normal_documents_are_covered_and_heavy_ones_are_shown_only() -> None:
    found = {one.interpretation: one for one in cover_laws(documents=(32,), replications=300)}
    normal, heavy = found["near normal"], found["ratio, heavy below"]
    assert stats.binomtest(round(300 * normal.held), 300, 0.95).pvalue > 1e-3
    assert heavy.held < normal.held - 0.03  # the page says so, rather than promise 95 % of everything
    assert heavy.passed
    assert not heavy.judged
    assert "FAIL" not in render_coverage([heavy])


def test_the_page_has_a_row_for_each_law() -> None:
    found = cover_laws(documents=(8, 12), replications=10)
    page = markdown(Validation((), "quick", (1,), (), (), ()), found)
    rows = [line for line in page.splitlines() if line.startswith("| ") and "documents |" not in line]
    for one in found:
        (row,) = (row for row in rows if one.interpretation in row)
        assert f"{100 * one.held:.1f}" in row
