"""The share of tokens whose set of latents occurs nowhere else, against sets counted one by one."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from remainder.measure.code_sets import CodeSets, keys_of
from remainder.measure.codes import Codes


def codes(tokens: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    on = torch.rand(tokens, 9, generator=generator) < 0.25
    return torch.where(on, torch.randn(tokens, 9, generator=generator), 0.0)


def test_the_share_is_that_of_sets_counted_one_by_one() -> None:
    calibration, first, second = codes(40, 1), codes(25, 2), codes(25, 3)
    sets = CodeSets(keys_of(Codes.of(calibration)), [keys_of(Codes.of(part)) for part in (first, second)])
    evaluation = [frozenset(row.nonzero()[:, 0].tolist()) for row in torch.cat([first, second])]
    elsewhere = {frozenset(row.nonzero()[:, 0].tolist()) for row in calibration}
    counts = Counter(evaluation)
    lone = sum(counts[one] == 1 and one not in elsewhere for one in evaluation)
    assert 5 < lone < 45
    assert sets.lone().value == pytest.approx(lone / 50)


def test_a_set_does_not_depend_on_the_size_of_codes_nor_on_batches() -> None:
    found = codes(30, 4)
    whole = keys_of(Codes.of(found))
    assert (keys_of(Codes.of(-3 * found)) == whole).all()
    parts = [keys_of(Codes.of(part)) for part in found.split(7)]
    assert [key for part in parts for key in part] == list(whole)


def test_without_paid_codes_there_is_no_share() -> None:
    assert CodeSets().lone().value is None
