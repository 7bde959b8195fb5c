"""Claims on flows: where scales are crossed, and how their quantities are named."""

from __future__ import annotations

import numpy as np
import pytest

from remainder.base.paths import project_root
from remainder.errors import TaskError
from remainder.task.script import load_script
from remainder.task.spec import list_tasks
from remainder.validation.claims import needs, parse_quantity
from remainder.validation.flows import FLOWS, crossing
from remainder.validation.run import controls

KEEPS = np.array([0.0, 2.0, 4.0])


@pytest.mark.parametrize(
    ("sides", "any_side", "expected"),
    [
        ([[3.0, -9.0], [1.0, -9.0], [-1.0, -9.0]], False, 3.0),
        ([[-3.0, -9.0], [-1.0, -9.0], [-1.0, -9.0]], False, 0.0),
        ([[-3.0, -9.0], [1.0, -9.0], [-3.0, -9.0]], False, 2.5),  # what is met before does not count
        ([[-3.0, -9.0], [1.0, -9.0], [1.0, -9.0]], False, None),
        ([[-3.0, 3.0], [1.0, 1.0], [-3.0, -1.0]], False, 3.0),
        ([[-3.0, 3.0], [1.0, 1.0], [-3.0, -1.0]], True, 2.5),
        ([[3.0, 3.0], [1.0, 1.0], [3.0, -1.0]], True, 3.0),
        ([[1.0, -1.0], [1.0, -1.0], [0.0, 0.0]], False, 4.0),  # 0 is met
    ],
)
def test_a_scale_is_crossed_where_the_last_failing_side_is(
    sides: list[list[float]], any_side: bool, expected: float | None
) -> None:
    assert crossing(KEEPS, np.array(sides), any_side=any_side) == expected


def test_controls_find_the_same_crossing_apart_from_the_harness() -> None:
    scales = load_script(project_root() / "tasks/controls/scales.py")
    generator = np.random.default_rng(0)
    compared = 0
    for _ in range(200):
        gaps = np.sort(generator.random(4))[::-1] - 0.2 * generator.random()
        names = ("raw", "full", "mean", "shape", "missing", "bath 0.6", "bath 1")
        losses: dict[int, dict[str, float]] = {
            keep: {name: float(gap * generator.normal()) for name in names}
            | {"raw": float(gap), "clean": 0.0}
            for keep, gap in zip((0, 1, 3, 7), gaps, strict=True)
        }
        for name in ("shape", "perturbative", "raw", "bath"):
            sides = scales.margins(name, losses)
            own = crossing(np.array(list(losses), dtype=float), sides, any_side=name == "bath")
            if own is None:
                with pytest.raises(ValueError, match="not reached"):
                    scales.scale(name, losses)
            elif name != "bath":
                assert scales.scale(name, losses) == pytest.approx(own)
                compared += 1
    assert compared > 30


def test_quantities_of_a_flow_are_read() -> None:
    shell = parse_quantity("12: raw gap at most", "x")
    assert (shell.shell, shell.side, shell.bare) == (12, "at most", "12: raw gap")
    assert shell.inner == parse_quantity("raw gap", "x")
    scale, margin = parse_quantity("k raw", "x"), parse_quantity("3: margin bath", "x")
    assert (scale.kind, scale.rung, scale.shell) == ("scale", "raw", None)
    assert (margin.kind, margin.rung, margin.shell) == ("margin", "bath", 3)
    assert needs([shell, scale]).rungs == ("raw",)
    assert set(needs([margin]).rungs) == {"raw", "mean", "full-0.3", "full-0.6", "full"}
    mode = parse_quantity("3: reading 4", "x")
    assert (mode.kind, mode.rung, mode.shell) == ("of modes", "reading 4", 3)
    for text in ("x: raw", "3: k raw2", "k height", "3: margin height"):
        with pytest.raises(TaskError, match="no quantity"):
            parse_quantity(text, "x")


def test_controls_of_flows_alone_are_no_tasks_of_a_board() -> None:
    ids = [one.task.id for one in controls()]
    alone = [name for name in ids if name not in list_tasks()]
    assert alone == ["flows/isotropic", "flows/squared-loss", "flows/weak-background"]
    with_flows = [one.task.id for one in controls() if FLOWS in one.beside]
    assert {"controls/shell-chain-1", "controls/mixture", "tracr/histogram"} <= set(with_flows)
