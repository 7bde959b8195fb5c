"""Which methods keep the rules, and which are caught breaking them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from remainder.errors import InterpretationError
from remainder.interpretation.protocol import adapt
from remainder.interpretation.references import Identity
from remainder.interpretation.rules import check_conformance

DOCS, POSITIONS, WIDTH = 3, 16, 5


def activations() -> tuple[torch.Tensor, torch.Tensor]:
    """Windows and a mask that leaves out the first position, as that of a real task."""
    x = 3 * torch.randn(DOCS, POSITIONS, WIDTH, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(DOCS, POSITIONS).bool()
    mask[:, 0] = False
    return x, mask


class Method(Identity):
    """Codes are the activations; the decoder is the function under test."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.function = function

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return self.function(codes)


def shifted(x: torch.Tensor, by: int, axis: int) -> torch.Tensor:
    """x moved along an axis; zeros move in."""
    moved = torch.zeros_like(x)
    count = x.shape[axis] - abs(by)
    source, target = (0, by) if by > 0 else (-by, 0)
    moved.narrow(axis, target, count).copy_(x.narrow(axis, source, count))
    return moved


def only(x: torch.Tensor, position: int) -> torch.Tensor:
    """One position sees the next one."""
    changed = x.clone()
    changed[:, position] += 0.1 * x[:, position + 1]
    return changed


def batch_topk(x: torch.Tensor, k: int = 100) -> torch.Tensor:
    """The k largest codes of the whole batch stay."""
    threshold = x.abs().flatten().topk(k).values[-1]
    return torch.where(x.abs() >= threshold, x, 0.0)


def running_mean(x: torch.Tensor) -> torch.Tensor:
    return x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]


KEEPS_THE_RULES = {
    "identity": lambda x: x,
    "token by token": lambda x: torch.tanh(x),
    "top k of a token": lambda x: torch.where(x.abs() >= x.abs().topk(2).values[..., -1:], x, 0.0),
    "mean of earlier positions": running_mean,
    "previous position": lambda x: shifted(x, 1, 1),
    "position-dependent": lambda x: x * torch.arange(x.shape[1])[:, None],
    "rounding": lambda x: x + 1e-6 * torch.rand_like(x),
}

BREAKS_A_RULE = {
    "next position, faintly": (lambda x: x + 0.001 * shifted(x, -1, 1), "later positions"),
    "next position, early": (lambda x: only(x, POSITIONS // 4), "later positions"),
    "next position, midway": (lambda x: only(x, POSITIONS // 2), "later positions"),
    "next position, late": (lambda x: only(x, POSITIONS - 2), "later positions"),
    "far later position": (lambda x: x + shifted(x, -(POSITIONS - 3), 1), "later positions"),
    "mean of the window": (lambda x: x.mean(1, keepdim=True).expand_as(x), "later positions"),
    "last position": (lambda x: x + 0.1 * x[:, -1:], "later positions"),
    "batch top k": (batch_topk, "later positions|other windows"),
    "mean of the batch": (lambda x: x - x.mean(0), "other windows"),
    "window before": (lambda x: x + 0.01 * shifted(x, 1, 0), "other windows"),
    "window after": (lambda x: x + 0.01 * shifted(x, -1, 0), "other windows"),
    "windows so far": (lambda x: x.cumsum(0), "other windows"),
    "chance": (lambda x: x + 0.01 * torch.randn_like(x), "given again"),
    "dropout": (lambda x: torch.nn.functional.dropout(x, 0.1), "given again"),
}


@pytest.mark.parametrize("name", KEEPS_THE_RULES)
def test_methods_that_keep_the_rules_pass(name: str) -> None:
    found = check_conformance(adapt(Method(KEEPS_THE_RULES[name]), WIDTH), *activations())
    assert max(found.repeated, found.later_positions, found.other_windows) < found.limit


@pytest.mark.parametrize("name", BREAKS_A_RULE)
def test_methods_that_break_a_rule_are_caught(name: str) -> None:
    method, rule = BREAKS_A_RULE[name]
    with pytest.raises(InterpretationError, match=f"^mine: .* when .*({rule})") as raised:
        check_conformance(adapt(Method(method), WIDTH, "mine"), *activations())
    assert raised.value.fix


@pytest.mark.parametrize(
    ("function", "rule"),
    [
        (lambda x: shifted(x, -1, 1), "later positions"),
        (lambda x: 0.001 * shifted(x, -(POSITIONS - 3), 1), "later positions"),
        (lambda x: x - x.mean(0), "other windows"),
        (lambda x: torch.randn_like(x), "given again"),
    ],
)
def test_codes_that_look_elsewhere_are_caught(
    function: Callable[[torch.Tensor], torch.Tensor], rule: str
) -> None:
    """Though nothing of it is in the reconstruction: L0 and bits are counted on codes."""

    class Looks(Identity):
        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x, function(x)], -1)

        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            return codes[..., :WIDTH]

    with pytest.raises(InterpretationError, match=f"^mine: the code .* active codes when .*{rule}"):
        check_conformance(adapt(Looks(), WIDTH, "mine"), *activations())


class Keeps(Identity):
    """Half of x̂ is by its codes, half was kept when it encoded."""

    kept: torch.Tensor | None = None

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        self.kept = x
        return x.round()

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        if self.kept is None or not self.knows(codes):
            return codes
        return 0.5 * codes + 0.5 * self.kept

    def knows(self, codes: torch.Tensor) -> bool:
        return self.kept is not None and codes.shape == self.kept.shape


class KeepsWindows(Keeps):
    """It is not deceived by codes of others: it gives back what it kept for its own only."""

    def knows(self, codes: torch.Tensor) -> bool:
        return super().knows(codes) and torch.equal(codes, self.kept.round())


class KeepsAll(Keeps):
    """It has everything that it ever encoded, by the codes of the whole batch."""

    def __init__(self) -> None:
        self.all: list[torch.Tensor] = []

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        self.all.append(x)
        return x.round()

    def knows(self, codes: torch.Tensor) -> bool:
        return True

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        own = [x for x in self.all if x.shape == codes.shape and torch.equal(x.round(), codes)]
        return 0.5 * codes + 0.5 * own[-1] if own else codes


class KeepsEach(Keeps):
    """It finds each window of the last batch again, in any order."""

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        found = codes.clone()
        for row, window in enumerate(codes):
            for kept in [] if self.kept is None else self.kept:
                if torch.equal(kept.round(), window):
                    found[row] = 0.5 * window + 0.5 * kept
        return found


@pytest.mark.parametrize("method", [Keeps, KeepsWindows, KeepsAll, KeepsEach])
def test_what_was_kept_when_encoding_is_caught(method: type[Keeps]) -> None:
    """By codes that are decoded later, in another order, or a window at a time."""
    with pytest.raises(InterpretationError, match="decoded after others were encoded") as raised:
        check_conformance(adapt(method(), WIDTH, "mine"), *activations())
    assert "function of the codes alone" in str(raised.value.fix)


class Skips(Identity):
    """x̂ = codes + skip(x); codes are what skip leaves."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.skip = function

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x - self.skip(x)


PAST = {
    "nothing": (lambda x: torch.zeros_like(x), True),
    "a constant": (lambda x: torch.ones_like(x).cumsum(-1), True),
    "the mean": (lambda x: x.mean(-1, keepdim=True).expand_as(x), True),
    "mean and scale": (lambda x: x.mean(-1, keepdim=True) + x.std(-1, keepdim=True) * FIXED, True),
    "three axes": (lambda x: x * torch.tensor([1.0, 1, 1, 0, 0]), False),
    "all, faintly": (lambda x: 0.01 * x, False),
    "a curve": (lambda x: torch.sin(x[..., :1] * torch.arange(1, WIDTH + 1)), False),
    "two axes and a third, faintly": (lambda x: x * torch.tensor([1.0, 1, 0.01, 0, 0]), False),
}
FIXED = torch.linspace(-1, 1, WIDTH)


@pytest.mark.parametrize("name", PAST)
def test_two_numbers_a_token_may_go_past_the_codes_of_what_rebuilds_what_it_reads(name: str) -> None:
    function, allowed = PAST[name]
    x, mask = activations()
    skips = adapt(Skips(function), WIDTH, "mine")
    if allowed:
        check_conformance(skips, x, mask)
        check_conformance(skips, x, mask, x.clone())
    else:
        for same in (None, x.clone()):
            with pytest.raises(InterpretationError, match="past its codes goes more than 2 numbers"):
                check_conformance(skips, x, mask, same)
    # A transcoder rebuilds another place. Masked positions do not make one.
    check_conformance(skips, x, mask, x.flip(-1))
    x[:, 0] += 1
    if not allowed:
        with pytest.raises(InterpretationError, match="past its codes"):
            check_conformance(skips, x, mask, torch.where(mask[..., None], x, 0.0))


def test_a_transcoder_is_measured_by_what_it_rebuilds() -> None:
    x, mask = activations()
    target = 1e-3 * x
    leak = adapt(Method(lambda x: 1e-3 * (x + 1e-3 * shifted(x, -1, 1))), WIDTH, "mine")
    with pytest.raises(InterpretationError, match="later positions"):
        check_conformance(leak, x, mask, target)
    found = check_conformance(adapt(Method(lambda x: x + 2e-5 * shifted(x, -1, 1)), WIDTH), x, mask, 100 * x)
    assert 0 < found.later_positions < 0.02 * found.limit


def test_no_codes_at_all_keep_the_rules() -> None:
    class Constant(Identity):
        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return x[..., :0]

        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            return torch.ones(*codes.shape[:-1], WIDTH)

    found = check_conformance(adapt(Constant(), WIDTH), *activations())
    assert [rule.change for rule in found.rules] == [0.0] * 4


def test_memory_between_calls_is_caught() -> None:
    class Remembers(Identity):
        calls = 0

        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return codes * (1 + 0.01 * self.calls)

    with pytest.raises(InterpretationError, match="given again"):
        check_conformance(adapt(Remembers(), WIDTH), *activations())


def test_masked_positions_are_free() -> None:
    """What is never spliced cannot leak: here the first position sees the whole window."""

    def sees_all(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.sum(1, keepdim=True), x[:, 1:]], 1)

    x, mask = activations()
    check_conformance(adapt(Method(sees_all), WIDTH), x, mask)
    with pytest.raises(InterpretationError, match="later positions"):
        check_conformance(adapt(Method(sees_all), WIDTH), x, torch.ones_like(mask))


def test_changes_are_told_relative_to_the_activations() -> None:
    x, mask = activations()
    leak = Method(lambda x: x + 2e-5 * shifted(x, -1, 1))
    found = check_conformance(adapt(leak, WIDTH), x, mask)
    again = check_conformance(adapt(leak, WIDTH), 100 * x, mask)
    assert 0 < found.later_positions < found.limit
    assert again.later_positions == pytest.approx(found.later_positions, rel=0.05)


@pytest.mark.parametrize("size", [2e6, 1e18, 1e30])
def test_a_reconstruction_that_x_is_lost_in_is_refused(size: float) -> None:
    x, mask = activations()
    with pytest.raises(
        InterpretationError, match=r"its reconstruction is .* times as large as what it rebuilds"
    ):
        check_conformance(adapt(Method(lambda codes: size * codes), WIDTH), x, mask)
    check_conformance(adapt(Method(lambda codes: 5e5 * codes), WIDTH), 1e-5 * x, mask)


def test_one_window_is_too_few() -> None:
    x, mask = activations()
    with pytest.raises(ValueError, match="at least 2 windows, 1"):
        check_conformance(adapt(Identity(), WIDTH), x[:1], mask[:1])


@pytest.mark.parametrize(("length", "offset"), [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2), (4, 1)])
def test_a_method_that_averages_blocks_of_positions_is_caught(length: int, offset: int) -> None:
    def blocks(x: torch.Tensor) -> torch.Tensor:
        label = (torch.arange(x.shape[1]) + offset) // length
        same = (label[:, None] == label[None]).to(x)
        return (same / same.sum(-1, keepdim=True)) @ x

    x, mask = activations()
    with pytest.raises(InterpretationError, match="later positions"):
        check_conformance(adapt(Method(blocks), WIDTH), x, mask)
