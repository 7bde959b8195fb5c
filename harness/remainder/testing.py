"""A suite of tests that an interpretation inherits: implement two methods, and every rule is tested.

    from remainder.testing import InterpretationTests

    class TestMyAutoencoder(InterpretationTests):
        def make_interpretation(self):
            return MyAutoencoder.load("weights.safetensors")

        def make_activations(self):
            return torch.load("activations.pt")     # [docs, positions, width], float32, a few windows

The rules are those that `remainder check` and every run apply to real activations, so an interpretation that
passes here on such activations is accepted there. See `remainder.interpretation.rules`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from remainder.errors import InterpretationError
from remainder.interpretation.protocol import Adapted, adapt
from remainder.interpretation.rules import check_conformance, measure_conformance

__all__ = ["InterpretationTests"]


class InterpretationTests:
    """Tests for one interpretation; a subclass whose name begins with `Test` is collected by pytest."""

    def make_interpretation(self) -> Any:
        """The object to be tested, with `encode` and `decode`; made afresh for every test."""
        raise NotImplementedError("return an interpretation from make_interpretation")

    def make_activations(self) -> Tensor:
        """Activations that it reads, [docs, positions, width] in float32: two windows or more."""
        raise NotImplementedError("return activations from make_activations")

    def make_target(self) -> Tensor:
        """Activations that it rebuilds; override this for a transcoder. Default: those that it reads."""
        return self.make_activations()

    def test_shapes_are_right(self) -> None:
        x, interpretation = self._activations(), self._adapted()
        rebuilt = interpretation.decode(interpretation.encode(x))
        passed = interpretation.skip(x)
        assert rebuilt.shape == self.make_target().shape
        assert passed is None or passed.shape == rebuilt.shape

    def test_reconstruction_is_finite(self) -> None:
        self._adapted().reconstruct(self._activations())

    def test_is_deterministic(self) -> None:
        self._keeps("deterministic")

    def test_is_causal(self) -> None:
        self._keeps("causal")

    def test_is_local(self) -> None:
        self._keeps("local")

    def test_is_decoded_from_its_codes_alone(self) -> None:
        self._keeps("by its codes")

    def test_passes_the_check_of_every_run(self) -> None:
        """All rules at once, among them how little may go past the codes."""
        check_conformance(self._adapted(), *self._given())

    def test_its_state_is_all_that_distinguishes_it(self) -> None:
        """A module that is made anew and given the weights of another gives the same reconstruction."""
        first, second = self.make_interpretation(), self.make_interpretation()
        if not isinstance(first, nn.Module):
            pytest.skip("it is no torch module, so it has no state to save")
        second.load_state_dict(first.state_dict())
        x = self._activations()
        (_, expected), (_, again) = (self._adapted(each).reconstruct(x) for each in (first, second))
        torch.testing.assert_close(again, expected)

    def _activations(self) -> Tensor:
        x: Any = self.make_activations()
        if not (isinstance(x, Tensor) and x.is_floating_point() and x.ndim == 3 and len(x) > 1 and x.any()):
            raise InterpretationError(
                "make_activations must return a float tensor [docs, positions, width] with two documents or "
                "more that are not all zero",
                fix="return activations of a few windows, as the model gives them",
            )
        return x

    def _adapted(self, interpretation: Any = None) -> Adapted:
        self._activations()  # refused before the interpretation is
        width = self.make_target().shape[-1]
        return adapt(self.make_interpretation() if interpretation is None else interpretation, width)

    def _given(self) -> tuple[Tensor, Tensor, Tensor]:
        """Activations that are read, the mask (every position), and activations that are rebuilt."""
        x = self._activations()
        return x, torch.ones(x.shape[:2], dtype=torch.bool), self.make_target()

    def _keeps(self, name: str) -> None:
        interpretation = self._adapted()
        (rule,) = (
            each for each in measure_conformance(interpretation, *self._given()).rules if each.name == name
        )
        assert rule.is_kept, rule.broken_by(interpretation.name)
