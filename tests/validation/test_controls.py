"""The installed controls: each passes, and eight standard errors off fails for every single value of each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from remainder.validation import run
from remainder.validation.run import Validation, controls, validate
from remainder.validation.verdict import Finding, judge

QUICK = (*("controls/parity", "tracr/histogram", "controls/two-sites-2", "controls/bernoulli-gaussian"),)
TASKS = {control.task.id: control.task for control in controls()}
NAMES = list(TASKS)


@pytest.fixture(scope="module")
def measured() -> dict[str, tuple[Validation, list[Finding]]]:
    """What was validated and found, by control, as far as it has been measured."""
    return {}


def found(name: str, measured: dict[str, Any]) -> tuple[Validation, list[Finding]]:
    """A control in the world of its own seed."""
    if name not in measured:
        kept: list[Finding] = []

        def remember(findings: Any) -> Any:
            kept.extend(findings)
            return judge(findings)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run, "judge", remember)
            measured[name] = (validate([TASKS[name]], [None]), kept)
    return measured[name]


def marked(name: str) -> Any:
    return name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", [marked(name) for name in NAMES])
def test_a_control_passes(name: str, measured: dict[str, Any]) -> None:
    validation, findings = found(name, measured)
    assert validation.passed
    assert len(findings) > 4


@pytest.mark.parametrize("name", [marked(name) for name in NAMES])
def test_every_single_wrong_answer_of_a_control_fails(name: str, measured: dict[str, Any]) -> None:
    _, findings = found(name, measured)
    for place, finding in enumerate(findings):
        claim, value, error = finding.claim, finding.measured.value, finding.measured.error
        # To the side on which the measured value is not; where there is no error, by more than rounding.
        one_sided = claim.quantity.side != "equal"
        start = value if one_sided else claim.expected
        sign = 1 if one_sided or value < start else -1
        if claim.quantity.side == "at most":
            sign = -1
        wrong = start + sign * (8 * error + claim.allowance + 3e-6)
        changed = finding._replace(claim=replace(claim, expected=wrong))
        verdicts = judge([*findings[:place], changed, *findings[place + 1 :]])
        failed = [number for number, one in enumerate(verdicts) if not one.passed]
        assert failed == [place], (claim.interpretation, claim.quantity.text)


def test_most_controls_say_something_of_both_scores() -> None:
    both = [
        control.task.id
        for control in controls()
        if {"raw", "full"}
        <= {(claim.quantity.inner or claim.quantity).rung for claim in control.claims(control.task.seed)}
    ]
    assert len(both) >= 0.8 * len(NAMES)
