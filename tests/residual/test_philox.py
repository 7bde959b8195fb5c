"""Noise on a device: NumPy's Philox in torch's integers, held against NumPy on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from remainder.residual.noise import Draw, NoiseKeys, _key, _texts, normal
from remainder.residual.philox import raw, upper_bits

KEYS = [0, 1, 2**64 - 1, 2**64, 2**128 - 1, 0x0123456789ABCDEFFEDCBA9876543210, _key("15|normal|0|a|3")]


@pytest.mark.parametrize("count", [1, 3, 4, 5, 4096])
def test_bits_are_those_of_numpy(count: int) -> None:
    expected = np.stack([np.random.Philox(key=key).random_raw(count) for key in KEYS])
    found = raw(KEYS, count, "cpu")
    assert found.dtype == torch.int64
    assert (found.numpy().view(np.uint64) == expected).all()


def test_upper_bits_do_not_copy_the_sign() -> None:
    bits = torch.tensor([[-1, 0, 1 << 62, -(1 << 63)]])
    assert upper_bits(bits, 52).tolist() == [[2**52 - 1, 0, 1 << 50, 1 << 51]]


def test_normal_values_by_these_bits_are_the_same() -> None:
    places = NoiseKeys(15, ("a", "b"), (0, 7))
    bits = raw([_key(text) for text in _texts(places, "normal|1")], 6 * 5, "cpu")
    values = torch.special.ndtri((upper_bits(bits, 52).double() + 0.5) * 2.0**-52).reshape(2, 6, 5)
    assert torch.equal(values, normal(places, Draw(2), 6, 5))
    assert torch.equal(-values, normal(places, Draw(3), 6, 5))
