"""Settings of a device by which the same run gives the same numbers, as far as they are free; its room."""

from __future__ import annotations

import os
import re
from typing import Literal

import torch
from torch import Tensor

from remainder.base.memory import free_memory
from remainder.errors import AssetError, TaskError

__all__ = ["DEVICE", "asked_device", "may_round_to_tf32", "moved", "pick_device", "require_room", "steady"]

DEVICE = "REMAINDER_DEVICE"
"""The environment variable that names the device which `auto` stands for."""


def asked_device(name: str) -> str:
    """The name of the device that is meant: for `auto` the one that `REMAINDER_DEVICE` says, if it is set."""
    return (os.environ.get(DEVICE) or name) if str(name) == "auto" else str(name)


def pick_device(name: Literal["auto", "cpu", "cuda"] | str) -> torch.device:
    """The device of this name.

    `auto` is the one that `REMAINDER_DEVICE` names; without it CUDA where available, and the CPU otherwise.

    Raises:
        TaskError: if CUDA is asked for and there is none, or there is no such device.
    """
    asked = asked_device(name)
    place = "--device " if asked == str(name) else f"{DEVICE}="
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if asked.partition(":")[0] == "mps":
        raise TaskError(
            f"{place}{asked}: GPUs of Apple are not supported: they have no float64, in which sums and fits "
            "are kept",
            fix="use cpu",
        )
    if not re.fullmatch(r"cpu|cuda(:\d+)?", asked):
        where = "" if asked == str(name) else f", which {DEVICE} names"
        raise TaskError(f"there is no device {asked!r}{where}", fix="choose from: auto, cpu, cuda")
    if asked.startswith("cuda") and not torch.cuda.is_available():
        raise TaskError(f"{place}{asked}: this PyTorch sees no CUDA device", fix="use cpu, or auto")
    return torch.device(asked)


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


def require_room(size: int, what: str, device: torch.device | str) -> None:
    """Raise AssetError if a device has less free memory than something takes, before it is put there.

    Where nothing tells how much is free, it is taken to be enough.

    Args:
        size: bytes.
        what: a phrase for it, such as `the weights of SmallLM in float32`.
    """
    place, here = torch.device(device), "this machine"
    free = free_memory()
    if place.type == "cuda":
        here = str(place)
        # Memory that torch holds and does not use is free for its tensors.
        unused = torch.cuda.memory_reserved(place) - torch.cuda.memory_allocated(place)
        free = torch.cuda.mem_get_info(place)[0] + unused
    if size > free:
        raise AssetError(
            f"{what} take {_amount(size)}, and {here} has {_amount(free)} of memory free",
            fix="free memory, take a device that has more (--device), or a smaller model",
        )


def _amount(size: int | float) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"
