"""The reference interpretations against other libraries, and what `adapt` refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import StandardSAE, StandardSAEConfig
from sklearn.decomposition import PCA

from remainder.errors import InterpretationError
from remainder.interpretation.protocol import Adapted, Reconstruction, adapt
from remainder.interpretation.references import Identity, mean_only, principal_components, random_projection
from remainder.residual.moments import Moments

WIDTH = 6


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X = gaussian(8, 50, WIDTH) @ gaussian(WIDTH, WIDTH, seed=1) + gaussian(WIDTH, seed=2)
MASK = torch.ones(8, 50).bool()


@pytest.fixture(scope="module")
def moments() -> Moments:
    moments = Moments.empty(WIDTH)
    moments.update(X.reshape(-1, WIDTH))
    return moments


def test_identity_and_mean(moments: Moments) -> None:
    codes, reconstruction = adapt(Identity(), WIDTH).reconstruct(X, MASK)
    assert torch.equal(codes, X)
    assert torch.equal(reconstruction, X)
    codes, reconstruction = adapt(mean_only(moments), WIDTH).reconstruct(X, MASK)
    assert codes.shape == (8, 50, 0)
    torch.testing.assert_close(reconstruction, X.mean((0, 1)).expand_as(X))


@pytest.mark.parametrize("rank", [1, 3, WIDTH])
def test_principal_components_equal_sklearn(moments: Moments, rank: int) -> None:
    rows = X.reshape(-1, WIDTH).double().numpy()
    reference = PCA(n_components=rank).fit(rows)
    codes, reconstruction = adapt(principal_components(moments, rank), WIDTH).reconstruct(X, MASK)
    expected = reference.inverse_transform(reference.transform(rows))
    np.testing.assert_allclose(reconstruction.reshape(-1, WIDTH), expected, atol=2e-5)
    # Directions have no sign.
    np.testing.assert_allclose(codes.reshape(-1, rank).abs(), np.abs(reference.transform(rows)), atol=2e-5)


def test_random_directions_are_orthonormal_seeded_and_isotropic(moments: Moments) -> None:
    one, again, other = (random_projection(moments, 4, seed) for seed in (1, 1, 2))
    torch.testing.assert_close(one.directions @ one.directions.T, torch.eye(4))
    assert torch.equal(one.directions, again.directions)
    assert not torch.equal(one.directions, other.directions)
    # E VᵀV = (rank/width) I
    average = torch.stack(
        [p.directions.T @ p.directions for p in (random_projection(moments, 2, s) for s in range(200))]
    ).mean(0)
    torch.testing.assert_close(average, torch.eye(WIDTH) / 3, atol=0.085, rtol=0)
    # A projection: doing it twice changes nothing, and means stay.
    adapted = adapt(one, WIDTH)
    once = adapted.reconstruct(X, MASK)[1]
    torch.testing.assert_close(adapted.reconstruct(once, MASK)[1], once)
    torch.testing.assert_close(once.mean((0, 1)), X.mean((0, 1)))


@pytest.mark.parametrize("rank", [0, -1, WIDTH + 1])
def test_ranks_that_make_no_sense_are_refused(moments: Moments, rank: int) -> None:
    for make in (lambda: principal_components(moments, rank), lambda: random_projection(moments, rank, 0)):
        with pytest.raises(InterpretationError, match=f"rank is {rank}.*width {WIDTH}"):
            make()


def test_components_need_more_rows_than_their_rank() -> None:
    few = Moments.empty(WIDTH)
    few.update(X[0, :3])
    with pytest.raises(InterpretationError, match="from 3 rows"):
        principal_components(few, 3)


def tiny_sae(width: int = WIDTH, **settings: Any) -> StandardSAE:
    torch.manual_seed(0)
    return StandardSAE(StandardSAEConfig(d_in=width, d_sae=11, **settings)).requires_grad_(False)


@pytest.mark.parametrize("settings", [{}, {"normalize_activations": "layer_norm"}])
def test_a_sae_of_sae_lens_is_accepted_as_it_is(settings: dict[str, Any]) -> None:
    sae = tiny_sae(**settings)
    assert isinstance(sae, Reconstruction)
    codes, reconstruction = adapt(sae, WIDTH).reconstruct(X, MASK)
    assert codes.shape == (8, 50, 11)
    torch.testing.assert_close(reconstruction, sae(X))


class Linear(torch.nn.Module):
    """A hand-made autoencoder with a decoder of any shape."""

    def __init__(self, decoder: torch.Tensor) -> None:
        super().__init__()
        self.W_dec = torch.nn.Parameter(decoder)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.W_dec.T

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return codes @ self.W_dec


def test_results_are_float32_and_adapting_twice_changes_nothing() -> None:
    class Half(Identity):
        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            return codes.bfloat16()

    adapted = adapt(Half(), WIDTH, "half")
    assert adapted.reconstruct(X, MASK)[1].dtype == torch.float32
    assert adapted.name == "half"
    assert adapt(Half(), WIDTH).name == "Half"
    assert adapt(adapted, WIDTH) is adapted


class NoDecode:
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x


class NotCallable(NoDecode):
    decode = torch.eye(WIDTH)


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (NoDecode(), "NoDecode has no method decode"),
        (NotCallable(), "NotCallable has no method decode"),
        (None, "NoneType has no method encode or decode"),
        (object(), "object has no method encode or decode"),
        (Linear(torch.zeros(WIDTH, 9)), rf"W_dec has shape \(6, 9\) \(it looks transposed\).*width {WIDTH}"),
        (Linear(torch.zeros(9, 5)), rf"W_dec has shape \(9, 5\);.*width {WIDTH}"),
        (tiny_sae(7), rf"W_dec has shape \(11, 7\);.*width {WIDTH}"),
        (Linear(torch.full((9, WIDTH), float("nan"))), "weight W_dec holds NaN or infinity"),
        (Linear(torch.full((9, WIDTH), float("inf"))), "weight W_dec holds NaN or infinity"),
    ],
)
def test_what_cannot_be_an_interpretation_is_refused(thing: Any, message: str) -> None:
    with pytest.raises(InterpretationError, match=message) as raised:
        adapt(thing, WIDTH)
    assert raised.value.fix


def bad(encode: Any = None, decode: Any = None) -> Adapted:
    """Identity, but for the functions given."""
    thing = Identity()
    for name, function in (("encode", encode), ("decode", decode)):
        if function is not None:
            setattr(thing, name, function)
    return adapt(thing, WIDTH, "mine")


@pytest.mark.parametrize(
    ("adapted", "message"),
    [
        (bad(encode=lambda x: x.flatten(0, 1)), r"encode gave shape \(400, 6\) for activations \(8, 50, 6\)"),
        (bad(encode=lambda x: x[:, 1:]), r"encode gave shape \(8, 49, 6\)"),
        (bad(encode=lambda x: (x, x)), "encode gave tuple instead of a tensor"),
        (bad(encode=lambda x: x / 0), "encode gave 2400 values that are NaN or infinite"),
        (bad(decode=lambda x: x[..., :5]), r"decode gave shape \(8, 50, 5\), the site needs \(8, 50, 6\)"),
        (bad(decode=lambda x: x.sum(0, keepdim=True)), r"decode gave shape \(1, 50, 6\)"),
        (bad(decode=lambda x: x.numpy()), "decode gave ndarray instead of a tensor"),
        (bad(decode=lambda x: torch.where(x == x.max(), torch.inf, x)), "decode gave 1 values that are NaN"),
        (bad(decode=lambda x: x @ torch.eye(7)), r"decode failed on a tensor of shape \(8, 50, 6\): Runtime"),
        # A module has no __name__, and foreign code may raise anything.
        (bad(encode=torch.nn.Linear(7, 3)), r"encode failed on a tensor of shape \(8, 50, 6\): Runtime"),
        (bad(decode=lambda x: x.no_such_thing), "decode failed on a tensor of shape .*AttributeError"),
    ],
)
def test_results_that_cannot_be_used_are_refused(adapted: Adapted, message: str) -> None:
    with pytest.raises(InterpretationError, match=f"mine: {message}") as raised:
        adapted.reconstruct(X, MASK)
    assert raised.value.fix


def test_positions_where_nothing_is_spliced_may_overflow() -> None:
    mask = MASK.clone()
    mask[3, 7] = False
    for method in ("encode", "decode"):

        def overflows(x: torch.Tensor) -> torch.Tensor:
            return x.index_put((torch.tensor(3), torch.tensor(7)), torch.tensor(torch.inf))

        adapted = bad(**{method: overflows})
        torch.testing.assert_close(adapted.reconstruct(X, mask)[1][mask], X[mask])
        with pytest.raises(InterpretationError, match=f"mine: {method} gave 6 values"):
            adapted.reconstruct(X, MASK)


def test_running_out_of_memory_stays_what_it_is() -> None:
    """Whoever runs the measurement answers it with a smaller batch."""

    def encode(x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("too much")

    with pytest.raises(torch.OutOfMemoryError):
        bad(encode=encode).reconstruct(X, MASK)


def test_a_method_that_works_in_place_does_not_touch_what_it_is_scored_by() -> None:
    class Clips:
        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return x.clamp_(-0.1, 0.1)

        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            return codes.mul_(2)

    x = X.clone()
    codes, reconstruction = adapt(Clips(), WIDTH).reconstruct(x)
    assert torch.equal(x, X)
    assert float(codes.abs().max()) <= 0.1 + 1e-6
    assert torch.equal(reconstruction, 2 * codes)


@pytest.mark.parametrize("kind", ["complex", "sparse"])
def test_a_tensor_of_another_kind_is_refused(kind: str) -> None:
    class Odd:
        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return x.to_sparse() if kind == "sparse" else x.to(torch.complex64)

        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            return codes

    with pytest.raises(InterpretationError, match=kind):
        adapt(Odd(), WIDTH).reconstruct(X)
