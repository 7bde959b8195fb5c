"""How far groups of tokens differ: against published figures, brute force, and planted groups."""

from __future__ import annotations

import numpy as np
import pytest

from remainder.record.between import Groups, bands_of, between, simultaneous_means, spread_of
from remainder.record.intervals import Bootstrap
from remainder.validation.tissues import normal_spread

BCG = np.array(
    [
        *([4, 119, 11, 128], [6, 300, 29, 274], [3, 228, 11, 209], [62, 13536, 248, 12619]),
        *([33, 5036, 47, 5761], [180, 1361, 372, 1079], [8, 2537, 10, 619], [505, 87886, 499, 87892]),
        *([29, 7470, 45, 7232], [17, 1699, 65, 1600], [186, 50448, 141, 27197], [5, 2493, 3, 2338]),
        [27, 16886, 29, 17825],
    ],
    dtype=np.float64,
)
"""Thirteen trials of a vaccine: ill and well of the vaccinated, and of the others (Colditz et al. 1994)."""

DOCUMENTS, A_DOCUMENT, GROUPS = 16, 60, 4


def test_the_spread_of_known_trials_is_the_published_one() -> None:
    """τ² of the log risk ratios by DerSimonian and Laird is .3088 (Viechtbauer 2010, section 3.1)."""
    ill, well, ill_without, well_without = BCG.T
    risks = np.log(ill / (ill + well)) - np.log(ill_without / (ill_without + well_without))
    variances = 1 / ill - 1 / (ill + well) + 1 / ill_without - 1 / (ill_without + well_without)
    found, _ = spread_of(risks, np.diag(variances), 1 / variances)
    assert found == pytest.approx(0.3088, abs=5e-5)


def drawn(apart: float, seed: int = 3) -> tuple[Groups, np.ndarray]:
    """Tokens whose groups have means that lie `apart`, of documents with levels of their own."""
    generator = np.random.default_rng(seed)
    document = np.repeat(np.arange(DOCUMENTS), A_DOCUMENT)
    label = generator.integers(0, GROUPS, len(document))
    values = apart * label + (1 + label) * generator.normal(size=len(document))
    values += generator.normal(size=DOCUMENTS)[document]
    return Groups(document, label, DOCUMENTS, GROUPS), values


def by_hand(groups: Groups, values: np.ndarray) -> float:
    """τ² document by document and group by group."""
    numbers = np.array([(groups.label == g).sum() for g in range(GROUPS)])
    means = np.array([values[groups.label == g].mean() for g in range(GROUPS)])
    covariance = np.zeros((GROUPS, GROUPS))
    for document in range(DOCUMENTS):
        errors = np.zeros(GROUPS)
        for token in np.flatnonzero(groups.document == document):
            group = groups.label[token]
            errors[group] += (values[token] - means[group]) / numbers[group]
        covariance += np.outer(errors, errors) * DOCUMENTS / (DOCUMENTS - 1)
    return spread_of(means, covariance, numbers.astype(np.float64))[0]


def test_the_spread_of_tokens_is_that_by_hand_and_is_found_by_the_test() -> None:
    bands = bands_of(None, DOCUMENTS * A_DOCUMENT)
    for apart in (0.0, 0.6):
        groups, values = drawn(apart)
        (found,) = between(groups, values[:, None], bands, seed=1, permutations=199)
        assert not isinstance(found, str)
        assert found.variance == pytest.approx(by_hand(groups, values), rel=1e-9)
        assert (found.p == 1 / 200) is (apart > 0)
        assert (found.variance > found.permuted) is (apart > 0)
        assert (normal_spread(groups.document, groups.label, values) > 3) is (apart > 0)
    assert found.variance == pytest.approx(np.var([0, 0.6, 1.2, 1.8], ddof=1), abs=4 * found.error)


def test_what_bands_explain_is_no_spread_of_groups() -> None:
    """Values that follow entropy differ between groups of other entropies, and that is no kind of theirs."""
    generator = np.random.default_rng(5)
    document = np.repeat(np.arange(DOCUMENTS), A_DOCUMENT)
    entropy = generator.random(len(document))
    label = (entropy + 0.3 * generator.normal(size=len(document)) > 0.5).astype(np.int64)
    groups = Groups(document, label, DOCUMENTS, 2)
    values = np.round(entropy, 1)[:, None]
    plain, banded = (
        between(groups, values, bands, seed=1, permutations=199)[0]
        for bands in (bands_of(None, len(entropy)), bands_of(entropy, len(entropy)))
    )
    assert not isinstance(plain, str)
    assert not isinstance(banded, str)
    assert plain.p == 1 / 200
    assert banded.p > 0.01
    assert banded.permuted > 0.9 * banded.variance


def test_what_has_no_spread_says_why() -> None:
    groups, values = drawn(0.6)
    bands = bands_of(None, len(values))
    one = groups._replace(label=np.zeros_like(groups.label), groups=1)
    assert between(one, values[:, None], bands, seed=1) == ["one group alone has nothing to differ from"]
    few = groups._replace(document=groups.document % 3, documents=3)
    assert between(few, values[:, None], bands, seed=1) == ["3 documents; 4 are needed"]
    same = between(groups, np.ones((len(values), 1)), bands, seed=1, permutations=3)
    assert same == ["it is the same at every token"]


def test_ends_of_several_means_are_those_of_a_common_denominator() -> None:
    bootstrap, generator = Bootstrap(DOCUMENTS, seed=2), np.random.default_rng(7)
    columns, tokens = generator.normal(size=(DOCUMENTS, 3)), generator.uniform(1, 2, DOCUMENTS)
    columns[:, 2] = 0.0
    known = bootstrap.simultaneous(columns, tokens)
    found = simultaneous_means(bootstrap, columns, np.repeat(tokens[:, None], 3, axis=1))
    for one, other in zip(found, known, strict=True):
        assert np.allclose(one, other, rtol=1e-9, atol=0)
    # A group that is in one document has no end: too many resamples lack it.
    rare = np.repeat(tokens[:, None], 3, axis=1)
    rare[1:, 0] = columns[1:, 0] = 0.0
    columns[0, 0] = 1.0
    rare[1, 0] = 1.0
    assert not np.isfinite(simultaneous_means(bootstrap, columns, rare).high[0])
