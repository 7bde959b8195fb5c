"""The noise floor: spreads by the textbook, ranks by the paired difference of `remainder.report.compare`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats
from synthetic_records import synthetic_record
from synthetic_values import synthetic_values

from remainder.base.paths import project_root
from remainder.errors import RecordError
from remainder.record.store import StoredRecord
from remainder.record.values import canonical_values
from remainder.task.script import load_script

_STATISTICS = load_script(project_root() / "tasks" / "tiny" / "noise_floor_statistics.py")
noise_floor = _STATISTICS.noise_floor


def trained(name: str, raw: float, gaussian: float, seed: int, *, jitter: float = 0.03) -> StoredRecord:
    """A method whose KL is `raw` and `gaussian` times the usual one, moved by its training."""
    values = synthetic_values(documents=20)
    luck = np.random.default_rng([seed, len(name)]).normal(1, jitter, 2)
    for rung, factor in (("raw", raw * luck[0]), ("full", gaussian * luck[1])):
        values.loc[values["rung"] == rung, "kl"] *= factor
    return StoredRecord(synthetic_record(values, name=f"{name}-{seed}"), canonical_values(values))


@pytest.fixture(scope="module")
def records() -> dict[str, list[StoredRecord]]:
    factors = {"a": (1.0, 1.0), "bb": (1.5, 1.0), "ccc": (2.0, 1.001)}
    return {
        name: [trained(name, raw, gaussian, seed) for seed in range(2)]
        for name, (raw, gaussian) in factors.items()
    }


@pytest.fixture(scope="module")
def floors(records: dict[str, list[StoredRecord]]) -> list[Any]:
    return noise_floor(records)


def kl(stored: StoredRecord, rung: str) -> float:
    value = stored.record.metrics.rungs[rung].quenched.kl.value
    assert value is not None
    return value


def test_spreads_are_those_of_an_analysis_of_variance(
    records: dict[str, list[StoredRecord]], floors: list[Any]
) -> None:
    for floor, rung in zip(floors, ("raw", "full"), strict=True):
        groups = [[kl(one, rung) for one in each] for each in records.values()]
        within = float(np.mean([np.var(group, ddof=1) for group in groups]))
        assert floor.between_seeds == pytest.approx(math.sqrt(within))
        # F = 2 var(means) / within, so that the spread of methods is √(within (F − 1)/2).
        ratio = stats.f_oneway(*groups).statistic
        expected = math.sqrt(max(within * (ratio - 1) / 2, 0))
        assert floor.between_methods == pytest.approx(expected)
        assert floor.ratio == pytest.approx(expected / math.sqrt(within))
        assert floor.means == pytest.approx(
            {name: np.mean(g) for name, g in zip(records, groups, strict=True)}
        )
        assert floor.deviations["a"] == pytest.approx(np.std(groups[0], ddof=1))


def test_methods_that_differ_are_told_apart_and_others_are_not(floors: list[Any]) -> None:
    raw, gaussian = floors
    assert raw.separable == 1
    assert raw.ratio > 5
    assert gaussian.ratio < 3


def test_unmoved_retraining_is_not_separable() -> None:
    still = {
        name: [trained(name, f, f, seed, jitter=0.0) for seed in range(2)]
        for name, f in (("a", 1.0), ("b", 1.5))
    }
    raw, _ = noise_floor(still)
    assert (raw.separable, raw.separable_seeds, raw.between_seeds) == (1.0, 0.0, 0.0)
    assert raw.ratio == math.inf


def test_too_little_is_refused(records: dict[str, list[StoredRecord]]) -> None:
    for few in (
        {"a": records["a"]},
        {name: each[:1] for name, each in records.items()},
        {**records, "d": []},
    ):
        with pytest.raises(RecordError, match="two methods, one of them with two seeds"):
            noise_floor(few)
    values = synthetic_values(documents=20)
    part = values[values["rung"] != "full"]
    measurement = synthetic_record(values).measurement.model_copy(update={"rungs": ("raw",)})
    short = StoredRecord(synthetic_record(part, measurement=measurement), canonical_values(part))
    with pytest.raises(RecordError, match="has no KL Gaussian"):
        noise_floor({"a": records["a"], "short": [short]})
