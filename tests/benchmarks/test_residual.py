"""How fast moments stream, against the machine's own fp64 matrix product in the same run."""

from __future__ import annotations

import time
from typing import Any

import torch

from remainder.residual.moments import Moments

WIDTH, ROWS, CHUNK = 576, 100_000, 8192


def rate(seconds: float) -> float:
    """GFLOP/s of the products that a covariance of all rows needs."""
    return 2 * ROWS * WIDTH**2 / seconds / 1e9


def test_moments_stream_at_the_rate_of_matrix_products(benchmark: Any, capsys: Any) -> None:
    rows = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0))
    exact = rows.double()

    def stream() -> Moments:
        moments = Moments.empty(WIDTH)
        for part in torch.split(rows, CHUNK):
            moments.update(part)
        return moments

    def products() -> None:
        for part in torch.split(exact, CHUNK):
            part.T @ part

    ratios = []
    for _ in range(5):
        start = time.perf_counter()
        products()
        middle = time.perf_counter()
        stream()
        ratios.append((middle - start) / (time.perf_counter() - middle))
    moments = benchmark(stream)
    assert moments.count == ROWS
    with capsys.disabled():
        median = sorted(ratios)[2]
        print(
            f"\nmoments of {ROWS:,} × {WIDTH}: {rate(benchmark.stats.stats.median):.0f} GFLOP/s, "
            f"{median:.0%} of the bare fp64 products in the same run"
        )
