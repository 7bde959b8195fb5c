"""NumPy's Philox generator in integer operations of torch, so that noise can be made where it is used.

1. Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): block c of a stream is a
   function of the counter (c, 0, 0, 0), c from 1 as NumPy counts, and of the 128-bit key.
2. torch has no unsigned 64-bit arithmetic. Products, sums and exclusive ors of int64 wrap around and so have
   the same bits; the upper half of a product is put together from halves of 32 bits; shifts to the right are
   masked, since those of int64 copy the sign.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

__all__ = ["raw", "upper_bits"]

_ROUNDS = 10
_LOW = 0xFFFFFFFF


def _signed(value: int) -> int:
    """The int64 with the bits of an unsigned number."""
    return value - (1 << 64) if value >= 1 << 63 else value


_MULTIPLIERS = (_signed(0xD2E7470EE14C6C93), _signed(0xCA5A826395121157))
_BUMPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)


def raw(keys: Sequence[int], count: int, device: torch.device | str) -> Int[Tensor, "keys count"]:
    """The first `count` numbers of `numpy.random.Philox(key=key).random_raw` for each key, bit by bit.

    Args:
        keys: of 128 bits.

    Returns:
        Their bits as int64.
    """
    blocks = torch.arange(1, (count + 3) // 4 + 1, device=device).expand(len(keys), -1)
    words = [blocks, *(torch.zeros_like(blocks) for _ in range(3))]
    halves = [[key & (1 << 64) - 1 for key in keys], [key >> 64 for key in keys]]
    for _ in range(_ROUNDS):
        first, second = (
            torch.tensor([_signed(part) for part in half], device=device)[:, None] for half in halves
        )
        high_0, low_0 = _product(words[0], _MULTIPLIERS[0])
        high_1, low_1 = _product(words[2], _MULTIPLIERS[1])
        words = [high_1 ^ words[1] ^ first, low_1, high_0 ^ words[3] ^ second, low_0]
        halves = [
            [(part + bump) & (1 << 64) - 1 for part in half]
            for half, bump in zip(halves, _BUMPS, strict=True)
        ]
    return torch.stack(words, dim=-1).flatten(1)[:, :count]


def upper_bits(bits: Int[Tensor, "keys count"], number: int) -> Int[Tensor, "keys count"]:
    """The upper `number` bits, fewer than 64, of unsigned 64-bit numbers."""
    return (bits >> (64 - number)) & ((1 << number) - 1)


def _product(a: Int[Tensor, "keys blocks"], b: int) -> tuple[Tensor, Tensor]:
    """The upper and the lower 64 bits of an unsigned product."""
    a_high, a_low = (a >> 32) & _LOW, a & _LOW
    b_high, b_low = (b >> 32) & _LOW, b & _LOW
    low_low, low_high, high_low = a_low * b_low, a_low * b_high, a_high * b_low
    middle = ((low_low >> 32) & _LOW) + (low_high & _LOW) + (high_low & _LOW)
    upper = a_high * b_high
    for part in (low_high, high_low, middle):
        upper = upper + ((part >> 32) & _LOW)
    return upper, a * b
