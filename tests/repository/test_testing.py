"""The suite that interpretations inherit: references pass it, and breaking a rule fails its test."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from remainder.base.paths import project_root
from remainder.errors import InterpretationError
from remainder.interpretation.references import (
    Codebook,
    Identity,
    mean_only,
    principal_components,
    random_projection,
)
from remainder.residual.moments import Moments
from remainder.testing import InterpretationTests

WIDTH = 5


def activations() -> Tensor:
    return 3 * torch.randn(3, 16, WIDTH, generator=torch.Generator().manual_seed(0))


def moments() -> Moments:
    return Moments.of(activations().flatten(0, 1))


class Given(InterpretationTests):
    """The suite on activations that all tests here share."""

    def make_activations(self) -> Tensor:
        return activations()


class TestIdentity(Given):
    def make_interpretation(self) -> Any:
        return Identity()


class TestMean(Given):
    def make_interpretation(self) -> Any:
        return mean_only(moments())


class TestPrincipalComponents(Given):
    def make_interpretation(self) -> Any:
        return principal_components(moments(), 2)


class TestRandomProjection(Given):
    def make_interpretation(self) -> Any:
        return random_projection(moments(), 2, seed=0)


class TestCodebook(Given):
    def make_interpretation(self) -> Any:
        return Codebook(activations()[0])


class Transcoder(nn.Module):
    """A linear one, whose weights are drawn anew for every object."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, 7)
        self.outer = nn.Linear(7, WIDTH)

    def encode(self, x: Tensor) -> Tensor:
        return self.inner(x).relu()

    def decode(self, codes: Tensor) -> Tensor:
        return self.outer(codes)


class TestTranscoder(Given):
    def make_interpretation(self) -> Any:
        return Transcoder()

    def make_target(self) -> Tensor:
        return activations().flip(-1)


class Coded(Identity):
    """Codes are the activations, changed by a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.encode = function  # type: ignore[method-assign]


class Decoded(Identity):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.decode = function  # type: ignore[method-assign]


class Remembers(Identity):
    """It keeps what it encoded last, and gives it back."""

    def encode(self, x: Tensor) -> Tensor:
        self.last = x
        return x

    def decode(self, codes: Tensor) -> Tensor:
        return self.last[: len(codes)]


class Skips(Identity):
    def encode(self, x: Tensor) -> Tensor:
        return x[..., :1]

    def decode(self, codes: Tensor) -> Tensor:
        return torch.zeros(*codes.shape[:-1], WIDTH)

    def skip(self, x: Tensor) -> Tensor:
        return x


class Unregistered(Transcoder):
    """What it draws is no part of its state."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.rand(1)

    def decode(self, codes: Tensor) -> Tensor:
        return self.scale * super().decode(codes)


BREAKERS: dict[str, Callable[[], Any]] = {
    "test_shapes_are_right": lambda: Decoded(lambda codes: codes[..., :-1]),
    "test_reconstruction_is_finite": lambda: Decoded(lambda codes: codes / 0),
    "test_is_deterministic": lambda: Coded(lambda x: x + torch.rand_like(x)),
    "test_is_causal": lambda: Coded(lambda x: x.flip(1)),
    "test_is_local": lambda: Coded(lambda x: x - x.mean(0)),
    "test_is_decoded_from_its_codes_alone": Remembers,
    "test_passes_the_check_of_every_run": Skips,
    "test_its_state_is_all_that_distinguishes_it": Unregistered,
}
RULES = [name for name in dir(InterpretationTests) if name.startswith("test_")]


def failing(suite: InterpretationTests) -> set[str]:
    """Names of the tests that fail."""
    names = set()
    for name in RULES:
        try:
            getattr(suite, name)()
        except (AssertionError, InterpretationError):
            names.add(name)
        except pytest.skip.Exception:
            pass
    return names


def test_every_inherited_test_has_something_that_breaks_it() -> None:
    assert set(BREAKERS) == set(RULES)


@pytest.mark.parametrize("rule", BREAKERS)
def test_breaking_a_rule_fails_its_test(rule: str) -> None:
    class Broken(Given):
        def make_interpretation(self) -> Any:
            return BREAKERS[rule]()

    names = failing(Broken())
    assert rule in names
    # Where something can be measured at all, nothing else fails but the check of every run.
    if rule in ("test_is_causal", "test_is_local", "test_is_decoded_from_its_codes_alone"):
        assert names == {rule, "test_passes_the_check_of_every_run"}


def test_the_message_is_that_of_the_check() -> None:
    class Broken(Given):
        def make_interpretation(self) -> Any:
            return BREAKERS["test_is_causal"]()

    with pytest.raises(AssertionError, match=r"Coded: .* when only activations at later positions change"):
        Broken().test_is_causal()


def test_a_subclass_without_the_two_methods_says_so() -> None:
    with pytest.raises(NotImplementedError, match="make_activations"):
        InterpretationTests().test_is_causal()


@pytest.mark.parametrize(
    "given",
    [
        activations().numpy(),
        activations()[0],
        activations()[:1],
        torch.zeros(3, 16, WIDTH),
        activations().long(),
        None,
    ],
    ids=["numpy", "two dimensions", "one document", "zeros", "integers", "nothing"],
)
def test_activations_that_cannot_be_tested_on_are_refused_by_every_test(given: Any) -> None:
    class Mistaken(TestIdentity):
        def make_activations(self) -> Any:
            return given

    for name in set(RULES) - {"test_its_state_is_all_that_distinguishes_it"}:  # Identity has no state
        with pytest.raises(InterpretationError, match=r"make_activations must return a float tensor \[docs"):
            getattr(Mistaken(), name)()


def test_it_needs_no_checks_of_types_at_run_time() -> None:
    """Who tests an interpretation has pytest, not what our own tests need."""
    code = "import sys; sys.modules['beartype'] = None; import remainder.testing"
    subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(project_root() / "harness")}, check=True
    )
