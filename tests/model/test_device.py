"""Settings of a device: float32 stays whole, and a record says so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from remainder.model.device import may_round_to_tf32, moved, steady

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    before = torch.get_float32_matmul_precision()
    names = ("allow_tf32", "benchmark", "deterministic")
    flags = {name: getattr(torch.backends.cudnn, name) for name in names}
    yield
    torch.set_float32_matmul_precision(before)
    for name, flag in flags.items():
        setattr(torch.backends.cudnn, name, flag)


def test_float32_stays_whole_on_a_gpu() -> None:
    """The switches exist without a GPU too."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    assert may_round_to_tf32(CUDA) is True
    steady(CUDA)
    assert may_round_to_tf32(CUDA) is False
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark


def test_the_cpu_is_left_alone() -> None:
    torch.set_float32_matmul_precision("high")
    steady(CPU)
    assert torch.get_float32_matmul_precision() == "high"
    assert may_round_to_tf32(CPU) is None


def test_on_the_cpu_nothing_is_moved() -> None:
    tensor = torch.ones(3)
    assert moved(tensor, "cpu") is tensor
