"""Near sources of single tokens: the largest by score, whatever the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from remainder.measure.decoders import AffineDecoder
from remainder.measure.near import along, nearest
from remainder.measure.tissue_cells import LEAST, directions_of, fit_tissues, prominent, tissues_for
from remainder.residual.codes import Codes


def some_codes(tokens: int = 40, features: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    codes = torch.randn(tokens, features, generator=generator)
    return torch.where(torch.rand(tokens, features, generator=generator) < 0.4, codes, 0.0)


@pytest.mark.parametrize("keep", [1, 3, 12])
def test_the_nearest_are_those_of_largest_score(keep: int) -> None:
    dense = some_codes()
    dense[0], dense[1, :4] = 0.0, 2.0  # nothing on; equal scores, of which the first are kept
    codes = Codes.of(dense)
    near = nearest(codes, codes.value.abs(), keep)
    kept = torch.zeros_like(dense, dtype=torch.bool)
    kept[codes.token[near], codes.latent[near]] = True
    for row, chosen in zip(dense.abs(), kept, strict=True):
        order = sorted(row.nonzero()[:, 0].tolist(), key=lambda latent: (-float(row[latent]), latent))
        assert set(chosen.nonzero()[:, 0].tolist()) == set(order[:keep])


def test_products_with_directions_are_those_of_matrices() -> None:
    dense, directions = some_codes(), torch.randn(12, 5, generator=torch.Generator().manual_seed(2))
    rows, row = torch.randn(40, 5, generator=torch.Generator().manual_seed(3)), torch.arange(12)
    decoder = AffineDecoder(torch.zeros(5), directions, row)
    for sparse in (dense, torch.where(torch.arange(12) < 1, dense, 0.0)):  # by matrix, and by gathering
        codes = Codes.of(sparse)
        wanted = (rows @ directions.T)[codes.token, codes.latent]
        assert torch.allclose(along(decoder, codes, rows), wanted, atol=1e-6)


def test_tissues_are_kinds_of_codes_and_none_is_too_small() -> None:
    generator = np.random.default_rng(1)
    kind = np.repeat([0, 1, 2], [3 * LEAST, 2 * LEAST, LEAST // 2])
    codes = np.abs(generator.normal(size=(len(kind), 6))) * (np.arange(6) // 2 == kind[:, None])
    directions = directions_of(Codes.of(torch.from_numpy(codes).float()), torch.ones(6))
    found = fit_tissues(directions, 8, seed=1)
    assert min(found.sizes) >= LEAST
    assert list(found.sizes) == sorted(found.sizes, reverse=True)
    labels = found.assign(directions)
    large = kind < 2
    assert not set(labels[large & (kind == 0)]) & set(labels[large & (kind == 1)])
    assert fit_tissues(directions[:LEAST], 8, seed=1).sizes == (LEAST,)
    assert tissues_for(10 * LEAST, 3 * LEAST) == 3
    assert tissues_for(10**6, 10**6) == 12
    assert tissues_for(5, 5) == 1
    words = prominent(np.repeat([0, 1], 50), np.tile([7, 8], 50) + np.repeat([0, 10], 50))
    assert [set(one) for one in words] == [{7, 8}, {17, 18}]
