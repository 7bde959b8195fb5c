"""Scales of a flow: simultaneous ends, and brackets that are told from made-up sums over documents."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.tables import table_of

from remainder.record.flow import (
    Bracket,
    Criterion,
    Shells,
    _bath,
    _bracket,
    _first,
    _within,
    brackets_of,
)
from remainder.record.intervals import Bootstrap, Ratio
from remainder.record.schema import Record
from remainder.record.store import StoredRecord
from remainder.record.values import canonical_values

TOKENS = np.full(40, 10.0)


def test_of_one_ratio_the_ends_are_those_of_the_studentised_interval() -> None:
    generator = np.random.default_rng(0)
    numerator, tokens = generator.normal(1.0, 2.0, 30), generator.integers(5, 40, 30).astype(float)
    bootstrap = Bootstrap(30, seed=3)
    alone = bootstrap.estimate(Ratio(numerator, tokens))
    value, low, high = bootstrap.simultaneous(numerator[:, None], tokens)
    assert value[0] == pytest.approx(alone.value, rel=1e-12)
    assert low[0] == pytest.approx(alone.low, rel=1e-9)
    assert high[0] == pytest.approx(alone.high, rel=1e-9)


def test_copies_of_a_ratio_cost_nothing_and_independent_ones_do() -> None:
    generator = np.random.default_rng(1)
    columns = generator.normal(size=(60, 8))
    bootstrap, tokens = Bootstrap(60, seed=0), np.ones(60)
    _, low, high = bootstrap.simultaneous(columns[:, :1], tokens)
    _, same_low, same_high = bootstrap.simultaneous(np.repeat(columns[:, :1], 8, axis=1), tokens)
    assert same_low == pytest.approx(low[0])
    assert same_high == pytest.approx(high[0])
    _, wide_low, wide_high = bootstrap.simultaneous(columns, tokens)
    assert wide_low[0] < low[0]
    assert wide_high[0] > high[0]


def test_all_ends_of_a_side_hold_together_as_often_as_they_should() -> None:
    """Normal documents, eight independent ratios: the upper ends all hold in about 97.5 % of samples."""
    generator = np.random.default_rng(2)
    held, tries = 0, 200
    for seed in range(tries):
        columns = generator.normal(size=(40, 8))
        _, _, high = Bootstrap(40, seed=seed, resamples=400).simultaneous(columns, np.ones(40))
        held += bool((high > 0).all())
    assert 0.94 <= held / tries <= 1.0


def test_what_does_not_vary_has_its_value_at_both_ends() -> None:
    columns = np.column_stack([np.zeros(40), TOKENS * 0.5, np.random.default_rng(0).normal(size=40)])
    value, low, high = Bootstrap(40, seed=0).simultaneous(columns, TOKENS)
    assert (value[0], low[0], high[0]) == (0, 0, 0)
    assert low[1] == high[1] == pytest.approx(0.5)
    assert low[2] < value[2] < high[2]


@pytest.mark.parametrize("documents", [1, 3])
def test_too_few_documents_have_no_ends(documents: int) -> None:
    with pytest.raises(ValueError, match="an interval needs"):
        Bootstrap(documents, seed=0).simultaneous(np.ones((documents, 2)), np.ones(documents))


def spread(means: list[float], sd: float) -> np.ndarray:
    """Sums over documents whose ratios to `TOKENS` are about `means`, `[shells, documents]`."""
    noise = np.random.default_rng(4).normal(size=(len(means), 40))
    noise -= noise.mean(1, keepdims=True)
    return 10.0 * (np.array(means)[:, None] + sd * noise)


def bracket(criterion: Criterion, keeps: tuple[int, ...] = (0, 1, 2, 4, 8)) -> Bracket:
    return _bracket(Bootstrap(40, seed=0), TOKENS, keeps, criterion)


def test_a_scale_lies_between_the_shell_that_may_meet_it_and_the_one_that_does() -> None:
    sizes = spread([1.0, 0.5, 0.101, 0.02, 0.01], 0.05)
    rooms = spread([1.0] * 5, 0.0)
    found = bracket(_within(list(sizes), list(rooms), 0.1))
    assert (found.low, found.high, found.verdict) == (2, 4, "2 to 4")


def test_the_sign_of_what_has_to_be_small_does_not_matter() -> None:
    rooms = list(spread([1.0] * 5, 0.0))
    for sign in (1, -1):
        sizes = [sign * size for size in spread([1.0, 0.5, 0.3, 0.02, 0.01], 0.02)]
        assert bracket(_within(sizes, rooms, 0.1)) == Bracket(low=4, high=4)


def test_one_larger_shell_that_fails_puts_the_scale_beyond_it() -> None:
    rooms = list(spread([1.0] * 5, 0.0))
    sizes = list(spread([0.01, 0.01, 0.01, 0.5, 0.01], 0.01))
    assert bracket(_within(sizes, rooms, 0.1)) == Bracket(low=8, high=8)
    sizes = list(spread([0.01, 0.01, 0.01, 0.01, 0.5], 0.01))
    found = bracket(_within(sizes, rooms, 0.1))
    assert (found.low, found.high, found.verdict) == (None, None, "not reached")


def test_what_the_documents_do_not_decide_is_undecided() -> None:
    found = bracket(_within(list(spread([0.1] * 5, 0.3)), list(spread([1.0] * 5, 0.0)), 0.1))
    assert (found.low, found.high, found.verdict) == (0, None, "undecided, ≥ 0")


def test_of_several_sides_one_is_enough_where_something_is_claimed_to_help() -> None:
    good, bad = spread([-1.0] * 5, 0.1), spread([1.0] * 5, 0.1)
    sides = np.stack([good, bad], axis=1)
    assert bracket(Criterion(sides, any_side=True)) == Bracket(low=0, high=0)
    assert bracket(Criterion(sides)).verdict == "not reached"


def test_a_side_without_a_value_decides_nothing() -> None:
    sides = np.stack([spread([-1.0] * 5, 0.1), spread([1.0] * 5, 0.1)], axis=1)
    unknown = np.zeros((5, 2), dtype=np.bool_)
    unknown[1, 0] = True
    found = bracket(Criterion(sides, any_side=True, unknown=unknown))
    assert (found.low, found.high) == (0, 2)
    unknown[:, 0], unknown[1, 0] = False, False
    unknown[:, 1] = True  # the other side still tells
    assert bracket(Criterion(sides, any_side=True, unknown=unknown)) == Bracket(low=0, high=0)


def test_where_nothing_is_left_out_there_is_nothing_to_claim() -> None:
    sides = np.stack([spread([-1.0] * 5, 0.1), spread([-1.0] * 5, 0.1)], axis=1)
    sides[-1] = 0
    assert bracket(Criterion(sides, any_side=True)) == Bracket(low=0, high=0)


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_the_first_shell_from_which_on_all_meet_it(met: list[bool]) -> None:
    keeps = tuple(range(len(met)))
    expected = next((place for place in keeps if all(met[place:])), None)
    assert _first(np.array(met), keeps) == expected


# ------------------------------------------------------------------------------------ two forms of k_bath


def bath_shells(losses: list[dict[str, np.ndarray]], draws: dict[str, tuple[int, ...]]) -> Shells:
    """Shells of made-up losses by rung, `[documents]` each; annealed ones of most draws are lower by 0.1."""
    totals, tables = [], []
    for shell in losses:
        totals.append({rung: pd.DataFrame({"loss": loss, "tokens": TOKENS}) for rung, loss in shell.items()})
        rows = [
            {"split": "evaluation", "rung": rung, "draw": count - 1, "document": f"{i:02}", "annealed": value}
            for rung, counts in draws.items()
            for count in counts
            for i, value in enumerate(shell[rung] - 0.1 * (count == max(counts)))
        ]
        tables.append(pd.DataFrame(rows).assign(annealed_plain=lambda table: table["annealed"]))
    return Shells(tuple(range(len(losses))), tuple(totals), tuple(tables))


def of_bath(*, coupled: bool) -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(0)
    rungs = ["clean", "mean", "full-0.6", "full", *(["coupled", "scaled"] if coupled else [])]
    return [{rung: 30 + generator.normal(size=40) for rung in rungs} for _ in range(3)]


def test_where_amplitudes_were_fitted_the_best_with_the_bath_is_compared_with_the_best_without() -> None:
    losses = of_bath(coupled=True)
    found = _bath(bath_shells(losses, {"full-0.6": (4, 8), "full": (4, 8, 16), "coupled": (4, 8, 16)}))
    assert isinstance(found, Criterion)
    assert found.form == "couplings"
    expected = [[shell["coupled"] - 0.1 - shell["scaled"]] for shell in losses]
    assert found.numerators == pytest.approx(np.array(expected))


@pytest.mark.parametrize("some", [False, True])
def test_without_them_in_every_shell_two_amplitudes_are_compared_with_the_mean(some: bool) -> None:
    losses = of_bath(coupled=some)
    losses[1].pop("coupled", None)
    found = _bath(bath_shells(losses, {"full-0.6": (4, 8), "full": (4, 8, 16)}))
    assert isinstance(found, Criterion)
    assert found.form == "amplitudes"
    expected = [[shell[rung] - 0.1 - shell["mean"] for rung in ("full-0.6", "full")] for shell in losses]
    assert found.numerators == pytest.approx(np.array(expected))
    assert bracket(found, (0, 1, 2)).criterion == "amplitudes"


def test_amplitudes_that_change_nothing_claim_nothing() -> None:
    losses = of_bath(coupled=True)
    losses[2]["coupled"] = losses[2]["scaled"] + 0.1 + 1e-10  # what rounding leaves
    found = _bath(bath_shells(losses, {"coupled": (4, 8)}))
    assert isinstance(found, Criterion)
    assert not found.numerators[2].any()
    assert bracket(found, (0, 1, 2)).high == 2


def test_one_pair_gives_no_annealed_loss() -> None:
    found = _bath(bath_shells(of_bath(coupled=False), {"full-0.6": (4,), "full": (4,)}))
    assert found == "rung full-0.6 has too few draws for an annealed loss"


# ---------------------------------------------------------------- criteria against the words of the protocol


def logistic(bath: float, impurity: float) -> dict[str, np.ndarray]:
    """Exact losses of documents of one token each, y drawn from sigmoid(3 t), t = s + r, of which s is kept.

    The rest is r = impurity · (±1) + sqrt(bath) · g; integrals by Gauss–Hermite quadrature.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    source = np.random.default_rng(3).normal(size=40)
    signs = np.array([-1.0, 1.0])
    real = (impurity * signs[:, None] + np.sqrt(bath) * nodes).ravel()
    real_weights = np.concatenate([weights, weights]) / 2
    size = np.sqrt(impurity**2 + bath)

    def logs(noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        t = 3 * (source[:, None] + noise)
        return -np.logaddexp(0, -t), -np.logaddexp(0, t)

    chance = np.exp(logs(real)[0]) @ real_weights  # of y = 1, given what is kept

    def loss(noise: np.ndarray, weight: np.ndarray) -> np.ndarray:
        yes, no = logs(noise)
        return -(chance * (yes @ weight) + (1 - chance) * (no @ weight))

    def annealed(noise: np.ndarray, weight: np.ndarray) -> np.ndarray:
        yes, no = (np.exp(log) @ weight for log in logs(noise))
        return -(chance * np.log(yes) + (1 - chance) * np.log(no))

    yes, no = logs(real)
    none, one = np.zeros(1), np.ones(1)
    return {
        "clean": -(np.exp(yes) * yes + np.exp(no) * no) @ real_weights,
        "raw": loss(none, one),
        "mean": loss(none, one),
        "full-0.3": loss(0.3 * size * nodes, weights),
        "full-0.6": loss(0.6 * size * nodes, weights),
        "full": loss(size * nodes, weights),
        "permuted": loss(real, real_weights),
        "annealed full-0.6": annealed(0.6 * size * nodes, weights),
        "annealed full": annealed(size * nodes, weights),
    }


BATHS = [(1.0, 1.5), (0.6, 0.0), (0.15, 0.3), (0.02, 0.0), (0.0, 0.0)]
"""Variance of the Gaussian part and size of the impurity, of shells that keep more and more."""


def stored(losses: dict[str, np.ndarray]) -> StoredRecord:
    """The values of a shell, with the annealed loss of four pairs of draws that are all alike."""
    told = {rung: loss for rung, loss in losses.items() if not rung.startswith("annealed ")}
    drawn = {rung: np.repeat(told[rung][:, None], 8, axis=1) for rung in ("full-0.6", "full")}
    ends = {rung: np.full((40, 8), np.nan) for rung in drawn}
    for rung, end in ends.items():
        end[:, -1] = losses[f"annealed {rung}"]
    return StoredRecord(Record.model_construct(), canonical_values(table_of(told | drawn, None, ends, ends)))


def test_scales_of_a_logistic_model_are_those_of_its_integrals() -> None:
    """Each criterion is decided once more, from exact losses and the words of the protocol."""
    exact = [logistic(*bath) for bath in BATHS]
    pooled = [{rung: float(loss.mean()) for rung, loss in shell.items()} for shell in exact]

    def one(at: dict[str, float]) -> float:
        # Γ(α) − Γ(0) = a₂α² + a₄α⁴ at .3 and .6, solved for a₂ by hand.
        return at["mean"] + (16 * (at["full-0.3"] - at["mean"]) - (at["full-0.6"] - at["mean"])) / 1.08

    met = {
        "shape": [abs(at["full"] - at["permuted"]) <= 0.05 * (at["full"] - at["mean"]) for at in pooled],
        "perturbative": [abs(at["full"] - one(at)) <= 0.1 * (at["full"] - at["mean"]) for at in pooled],
        "raw": [at["raw"] - at["clean"] <= 0.05 * (pooled[0]["raw"] - pooled[0]["clean"]) for at in pooled],
        "bath": [
            min(at["annealed full-0.6"], at["annealed full"]) < at["mean"] or at["full"] == at["mean"]
            for at in pooled
        ],
    }
    found = brackets_of(Shells.of(dict(enumerate(map(stored, exact)))), seed=0)
    for name, holds in met.items():
        right = next(keep for keep in range(len(holds)) if all(holds[keep:]))
        assert found[name].reason is None, name
        assert found[name].low is not None, name
        assert found[name].low <= right, (name, holds, found[name])
        assert found[name].high is None or right <= found[name].high, (name, holds, found[name])
    # The shells were chosen so that the scales differ.
    assert [sum(holds) for holds in met.values()] != [len(BATHS)] * 4
