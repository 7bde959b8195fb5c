"""Measure every control in several worlds, and compare with what it claims.

1. A control is a task whose `[build]` names a script `expected`. Each seed gives another world: other
   weights, other examples, other expected values. By default three: the task's own, a fixed one, and one
   that is drawn when the run starts, so that nobody can tune anything to it.
2. In each world every interpretation with a claim is scored by `remainder.evaluate`, like any other, on only
   the rungs that its claims need; and every flow with a claim shell by shell (`validation.flows`),
   chains of sites (`validation.layers`), levels and modes (`validation.levels`), and tissues of tokens
   (`validation.tissues`).
3. All comparisons of the run are judged together (`verdict.judge`); then the laws across tasks.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import NamedTuple

from remainder.api import evaluate
from remainder.base.cache import Progress, silent
from remainder.base.paths import project_root
from remainder.errors import TaskError
from remainder.loading.loaded import LoadedTask
from remainder.loading.open import open_task
from remainder.task.script import load_script
from remainder.task.spec import Task, list_tasks, load_task
from remainder.validation.claims import Claim, Law, needs, parse_quantity, read_claims, read_laws
from remainder.validation.figures import FigureSpec, read_figure
from remainder.validation.flows import BY, FLOWS, FlowMeasurements, measure_flow_of
from remainder.validation.layers import ACROSS, LAYERS, LayerMeasurements, measure_layers_of
from remainder.validation.levels import (
    IN_LEVELS,
    IN_MODES,
    LEVELS,
    MODES,
    LevelMeasurements,
    ModeMeasurements,
    measure_levels_of,
    measure_modes_of,
)
from remainder.validation.quantities import Measurements
from remainder.validation.several_sites import JOINED, SitesMeasurements, interpretation_of, measure_sites
from remainder.validation.tissues import IN_TISSUES, TISSUES, TissueMeasurements, measure_tissues_of
from remainder.validation.verdict import Finding, JudgedClaim, LawVerdict, judge, judge_law

__all__ = ["Control", "Validation", "controls", "draw_seeds", "validate"]

_SECOND_SEED = 271828


class Control(NamedTuple):
    """A task with the script of its expected values."""

    task: Task
    script: ModuleType
    place: str
    """The name of the script in messages."""
    beside: Mapping[str, ModuleType] = MappingProxyType({})
    """Scripts beside it that claim more, by their names: of flows, of layers."""

    def claims(self, seed: int) -> list[Claim]:
        """The claims on the world of `seed`."""
        assert self.task.build is not None
        parameters = self.task.build.parameters
        found = read_claims(self.script, seed, parameters, self.place)
        for name, script in self.beside.items():
            found += read_claims(script, seed, parameters, f"{self.task.id}: {name}", more=True)
        return found


@dataclass(frozen=True)
class Validation:
    """Everything that one run compared."""

    controls: tuple[Task, ...]
    tier: str
    seeds: tuple[int | None, ...]
    """Seeds of the worlds; None stands for the own seed of each task."""
    comparisons: tuple[JudgedClaim, ...]
    laws: tuple[LawVerdict, ...]
    figures: tuple[FigureSpec, ...]
    """Figures whose tasks were all measured."""
    left_out: tuple[str, ...] = ()
    """Sentences on what was not judged or drawn, and why."""

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return all(one.passed for one in self.comparisons) and all(law.passed for law in self.laws)

    def of(self, task: Task) -> list[JudgedClaim]:
        """The comparisons of one control."""
        return [one for one in self.comparisons if one.task == task.id]


def draw_seeds(third: int | None = None) -> tuple[int | None, ...]:
    """The three seeds of a run: the task's own, a fixed one, and `third` (default: drawn now)."""
    return None, _SECOND_SEED, secrets.randbits(31) if third is None else third


def controls(names: Iterable[str | Task] | None = None) -> list[Control]:
    """Controls of these names, or all that are installed.

    Raises:
        TaskError: if there is no such task, it is no control, or nothing is installed.
    """
    every: Iterable[str | Path | Task] = [*list_tasks(), *_unlisted()] if names is None else names
    tasks = [load_task(name) for name in every]
    tasks = list({task.id: task for task in tasks}.values())
    found = []
    for task in tasks:
        if task.build is not None and task.build.expected is not None:
            path = task.build.folder / task.build.expected
            if not path.is_file():
                raise TaskError(
                    f"{task.id}: there is no {task.build.expected}", fix="correct [build] expected"
                )
            beside = {
                name: load_script(path.with_name(name))
                for name in (FLOWS, LAYERS, LEVELS, MODES, TISSUES)
                if path.with_name(name).is_file()
            }
            place = f"{task.id}: {task.build.expected}"
            found.append(Control(task, load_script(path), place, beside))
        elif names is not None:
            raise TaskError(
                f"task {task.id} is no control: nothing is expected of it",
                fix="choose a task whose [build] names a script `expected`",
            )
    if not found:
        raise TaskError("there is no control to validate", fix="run it in an installation that has tasks")
    return found


def validate(
    names: Iterable[str | Task] | None = None,
    seeds: Sequence[int | None] | None = None,
    *,
    tier: str = "quick",
    device: str = "auto",
    progress: Progress | None = None,
) -> Validation:
    """Compare controls with their known answers.

    Args:
        names: ids or folders of controls; default: all that are installed.
        seeds: seeds of the worlds, None for the own seed of each task; default: those of `draw_seeds`.
        tier: the tier of each task that is measured.
        device: `auto`, `cpu` or `cuda`.
        progress: receives how many interpretations are scored.

    Raises:
        RemainderError: if a control is malformed, or cannot measure what it claims.
    """
    chosen = controls(names)
    for control in chosen:  # report malformed scripts before anything is measured
        read_laws(control.script, control.place)
        read_figure(control.script, control.place)
    seeds = tuple(draw_seeds() if seeds is None else seeds)
    findings = _findings(_worlds(chosen, seeds, progress), tier, device, progress)
    laws, without_law = _judged_laws(chosen, findings)
    figures, without_figure = _figures(chosen, findings)
    return Validation(
        controls=tuple(control.task for control in chosen),
        tier=tier,
        seeds=seeds,
        comparisons=judge(findings),
        laws=laws,
        figures=figures,
        left_out=(*without_law, *without_figure),
    )


def _unlisted() -> list[Path]:
    """Folders of controls that are no tasks of the board, and so lie one folder deeper than tasks do."""
    return sorted(path.parent for path in (project_root() / "tasks").glob("*/*/*/task.toml"))


_World = tuple[Control, int, list[Claim]]


def _worlds(
    chosen: Sequence[Control], seeds: Sequence[int | None], progress: Progress | None
) -> list[_World]:
    """Every control under every seed, with its claims there."""
    pairs = [
        (control, seed)
        for control in chosen
        for seed in dict.fromkeys(control.task.seed if seed is None else seed for seed in seeds)
    ]
    worlds: list[_World] = []
    for control, seed in pairs:
        (progress or silent)("expected values", len(worlds), len(pairs))
        worlds.append((control, seed, control.claims(seed)))
    return worlds


def _findings(worlds: Sequence[_World], tier: str, device: str, progress: Progress | None) -> list[Finding]:
    """Measure in every world whatever is claimed there, one interpretation after another."""
    total = sum(len({claim.interpretation for claim in claims}) for _, _, claims in worlds)
    findings: list[Finding] = []
    done = 0
    for control, seed, claims in worlds:
        world = control.task.model_copy(update={"seed": seed})
        loaded = open_task(world, device=device)
        for name in dict.fromkeys(claim.interpretation for claim in claims):
            (progress or silent)(f"{world.id}: {name}, seed {seed}", done, total)
            own = [claim for claim in claims if claim.interpretation == name]
            measurements: (
                Measurements
                | SitesMeasurements
                | FlowMeasurements
                | LayerMeasurements
                | LevelMeasurements
                | ModeMeasurements
                | TissueMeasurements
            )
            if name.endswith(IN_LEVELS):
                measurements = measure_levels_of(loaded, name, tier, [claim.quantity for claim in own])
            elif name.endswith(IN_MODES):
                measurements = measure_modes_of(loaded, name, tier, [claim.quantity for claim in own])
            elif name.endswith(ACROSS):
                claimed = [claim.quantity for claim in own]
                measurements = measure_layers_of(
                    control.script, control.place, name, seed, tier, device, claimed
                )
            elif JOINED in name:
                measurements = measure_sites(control.script, control.place, name, seed, tier, device)
            elif name.endswith(IN_TISSUES):
                measurements = measure_tissues_of(loaded, name, tier, [claim.quantity for claim in own])
            elif BY in name:
                measurements = measure_flow_of(loaded, name, tier, [claim.quantity for claim in own])
            else:
                measurements = _measured(loaded, name, tier, own)
            findings += [Finding(world.id, seed, claim, measurements.read(claim.quantity)) for claim in own]
            done += 1
    (progress or silent)("validated", total, total)
    return findings


def _measured(loaded: LoadedTask, name: str, tier: str, claims: Sequence[Claim]) -> Measurements:
    """Measurements of all that some claims on an interpretation need."""
    wanted = needs(claim.quantity for claim in claims)
    result = evaluate(
        loaded,
        interpretation_of(loaded, name),
        name=name,
        tier=tier,
        rungs=wanted.rungs,
        pairs=wanted.pairs,
    )
    return Measurements(result.record, result.values)


def _judged_laws(
    chosen: Sequence[Control], findings: Sequence[Finding]
) -> tuple[tuple[LawVerdict, ...], list[str]]:
    """Each law once, however many tasks share its script; and those with a task that was not measured."""
    measured = {finding.task for finding in findings}
    laws: dict[str, Law] = {}
    for control in chosen:
        laws |= {law.name: law for law in read_laws(control.script, control.place)}
    verdicts, left_out = [], []
    for law in laws.values():
        missing = [task for task in law.tasks if task not in measured]
        if missing:
            left_out.append(f"law {law.name}: needs {', '.join(missing)} too")
            continue
        points = {
            task: list(
                {  # once per seed, however many claims there are
                    finding.seed: finding.measured
                    for finding in findings
                    if finding.task == task and _claimed(finding) == (law.interpretation, law.quantity)
                }.values()
            )
            for task in law.tasks
        }
        if not all(points.values()):
            raise TaskError(
                f"law {law.name}: nothing is claimed of {law.quantity} of {law.interpretation} in "
                + ", ".join(task for task, found in points.items() if not found),
                fix="claim it there, so that it is measured",
            )
        verdicts.append(judge_law(law, points))
    return tuple(verdicts), left_out


def _figures(
    chosen: Sequence[Control], findings: Sequence[Finding]
) -> tuple[tuple[FigureSpec, ...], list[str]]:
    """Each figure once; and those with a task that was not measured."""
    measured = {finding.task for finding in findings}
    claimed = {(finding.task, *_claimed(finding)) for finding in findings}
    figures: dict[str, FigureSpec] = {}
    for control in chosen:
        figure = read_figure(control.script, control.place)
        if figure is not None:
            figures[figure.name] = figure
    drawn, left_out = [], []
    for figure in figures.values():
        missing = sorted({point.task for point in figure.every_point()} - measured)
        if missing:
            left_out.append(f"figure {figure.name}: needs {', '.join(missing)} too")
            continue
        for task, interpretation, quantity in figure.every_number():
            parse_quantity(quantity, f"figure {figure.name}")
            if (task, interpretation, quantity) not in claimed:
                raise TaskError(
                    f"figure {figure.name}: nothing is claimed of {quantity} of {interpretation} in {task}",
                    fix="claim it there, so that it is measured",
                )
        drawn.append(figure)
    return tuple(drawn), left_out


def _claimed(finding: Finding) -> tuple[str, str]:
    return finding.claim.interpretation, finding.claim.quantity.bare
