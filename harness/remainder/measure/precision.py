"""The dtype that a device runs fast: does it multiply bfloat16 numbers in units of its own?

A processor without such units converts every operand, so that a pass in bfloat16 takes several times as long
as one in float32. Torch is asked twice, because neither answer is enough: oneDNN knows which instruction sets
it may use (`ONEDNN_MAX_CPU_ISA` masks some of them), but also accepts processors on which it only emulates
bfloat16; the list of the processor's capabilities knows its units, but nothing of masks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch

__all__ = ["bfloat16_cost", "has_bfloat16_units"]

_UNITS = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16")
"""Capabilities, as `torch.cpu.get_capabilities` calls them on x86-64 and on Arm."""

_ROWS, _WIDTH, _HIDDEN, _PRODUCTS = 512, 576, 1536, 5
"""Shape and number of the products that are timed: those of a small language model's MLP."""


def has_bfloat16_units(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 matrices natively.

    Every GPU counts as one that does: PyTorch supports bfloat16 on all that it still supports.
    """
    if device.type != "cpu":
        return True
    if not torch._C._has_mkldnn or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if hasattr(torch.cpu, "get_capabilities"):  # since torch 2.10
        found = torch.cpu.get_capabilities()
        return any(found.get(unit, False) for unit in _UNITS)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


@cache
def bfloat16_cost(device: torch.device) -> float:
    """Time of a linear layer in bfloat16 over that of the same layer in float32, measured at the first call.

    A layer keeps its weights as `[out, in]`. The product with weights that lie the other way round is another
    routine, which without units is ten times as slow again and which no model runs.
    """
    rows, weights = torch.ones(_ROWS, _WIDTH, device=device), torch.ones(_HIDDEN, _WIDTH, device=device)

    def product(dtype: torch.dtype) -> Callable[[], torch.Tensor]:
        left, right = rows.to(dtype), weights.to(dtype)
        return lambda: torch.nn.functional.linear(left, right)

    return _seconds(product(torch.bfloat16)) / _seconds(product(torch.float32))


def _seconds(run: Callable[[], torch.Tensor]) -> float:
    """The shortest of a few times, after one pass that is not counted."""
    run()
    times = []
    for _ in range(_PRODUCTS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)
