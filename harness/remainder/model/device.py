"""Settings of a device by which the same run gives the same numbers, as far as they cost nothing."""

from __future__ import annotations

import os

import torch
from torch import Tensor

__all__ = ["may_round_to_tf32", "moved", "steady"]


def steady(device: torch.device) -> None:
    """Keep float32 whole on a CUDA device (no TF32), and choose algorithms that do not depend on chance.

    On the CPU there is nothing to set.
    """
    if device.type != "cuda":
        return
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    # Read when CUDA's library of matrix products is loaded: one workspace, and so one order of sums.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def may_round_to_tf32(device: torch.device) -> bool | None:
    """Whether float32 products may be rounded to TF32; None where there is no such thing."""
    if device.type != "cuda":
        return None
    return torch.get_float32_matmul_precision() != "highest" or torch.backends.cudnn.allow_tf32


def moved(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on a device; to CUDA through pinned memory, so that the copy does not wait for what runs."""
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
