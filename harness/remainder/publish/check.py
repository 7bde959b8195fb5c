"""The steps of `remainder check`: can an interpretation be scored, and if not, why?

1. Find it, and the task: its own, or the one that is named.
2. Read it: does it fit the task's site and model, are its weights whole and finite? Where its file names
   another hook than the site's own, are both one tensor of the loaded model?
3. Encode and decode activations of calibration windows: are shapes right and values finite?
4. The rules that every interpretation keeps: deterministic, causal, local, by its codes.
5. Is `decode` an affine map of the codes? Where it is not, they are quantised in units of their standard
   deviations, not by what they contribute; where codes cannot be decoded by themselves, they have no bits.
6. Fraction of variance unexplained, active features a token, and the share of features that are ever active.

A step that fails is the last one; nothing is scored and no record is written. Of circuits only the first two
are looked at: the rest is of reconstructions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from rich.table import Table
from rich.text import Text

from remainder.base.cache import Progress
from remainder.base.files import explained
from remainder.base.resolve import resolve
from remainder.base.wrapping import command, fill
from remainder.errors import (
    AssetError,
    InterpretationError,
    MeasurementError,
    RemainderError,
    TaskError,
    printable,
)
from remainder.formats.places import MisfitError
from remainder.interpretation.protocol import Adapted
from remainder.interpretation.rules import measure_conformance
from remainder.loading.loaded import LoadedTask
from remainder.loading.open import at_site, on_prompts, open_task
from remainder.loading.site import SiteTask
from remainder.measure.codes import CodeSample
from remainder.measure.decoders import affine_decoder
from remainder.measure.gather import nothing_spliced
from remainder.publish.requirements import require_plain
from remainder.record.json import significant
from remainder.report.layout import WIDTH, require_format
from remainder.report.text import draw
from remainder.residual.moments import Moments
from remainder.submission.aliases import require_same
from remainder.submission.open import open_submission
from remainder.submission.submission import Submission
from remainder.task.spec import Task, load_task

__all__ = ["FORMATS", "Checked", "QuickNumbers", "Step", "check", "check_whole", "render"]

FORMATS = ("table", "json")
_STEPS = ("found", "fits", "weights", "encode, decode", "deterministic", "causal", "local", "by its codes")
_STEPS_OF_CIRCUITS = ("found", "fits")
_BESIDE = 3  # columns of a line that are taken besides the name of a step and what is said of it
_ANY = 100_000  # columns: more than any line has
_TIER = "quick"  # whose calibration windows are looked at, so that a run finds their activations in the cache


class Step(NamedTuple):
    """One thing that was looked at."""

    name: str
    passed: bool | None
    """Whether the step passed; None for a remark, which is neither right nor wrong."""
    detail: str
    fix: str | None = None


class QuickNumbers(NamedTuple):
    """Numbers from a few calibration windows; a score needs `remainder run`."""

    fvu: float
    """Fraction of the variance of what is replaced that is left in the residual."""
    l0: float
    """Active features a token."""
    live: int
    features: int
    tokens: int


@dataclass
class Checked:
    """The steps in order, to the first that failed."""

    where: str
    task: str | None = None
    """The id of the task."""
    named: str | None = None
    """The task as it was given, for a command that runs here: the only name of a private task."""
    steps: list[Step] = field(default_factory=list)
    numbers: QuickNumbers | None = None
    warnings: list[str] = field(default_factory=list)
    ignored: tuple[str, ...] = ()
    """Fields that the caller asked to ignore; the command that scores it must name them as well."""
    trusted: bool = False
    """Whether its code may be executed, if it is code; likewise."""
    error: RemainderError | None = None
    """The error that ended the check and is not the fault of the interpretation, such as an unknown task."""
    to_come: tuple[str, ...] = _STEPS
    """Names of all steps of the check."""

    @property
    def passed(self) -> bool:
        """Whether it can be scored."""
        return self.error is None and all(step.passed is not False for step in self.steps)

    def ok(self, name: str, detail: str) -> None:
        self.steps.append(Step(name, True, detail))

    def fail(self, name: str, problem: InterpretationError) -> Checked:
        self.steps.append(Step(name, False, problem.what, problem.fix))
        return self


Look = Callable[[Checked, Submission, Task, Callable[[], LoadedTask]], Checked]
"""The steps of a kind of task, once a submission is found; it adds them to what it is given."""


def check(
    where: str,
    task: str | None = None,
    *,
    ignore_fields: Sequence[str] = (),
    trust_code: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
) -> Checked:
    """Look at an interpretation as this module's text says.

    Args:
        where: what `remainder run --with` takes.
        task: an id or folder; default: the first that a submission names for itself.
        ignore_fields: of its files, to be passed over; see `open_submission`.
        trust_code: whether its code may be executed, if it is code.

    Raises:
        TaskError: if there is no such task, or none is named.
        AssetError: if model or text cannot be had.
        MeasurementError: if the task replaces nothing, or what it replaces does not vary.
    """
    found = check_whole(
        where, task, ignore_fields=ignore_fields, trust_code=trust_code, device=device, progress=progress
    )
    if found.error is not None:
        raise found.error
    return found


def check_whole(
    where: str,
    task: str | None = None,
    *,
    ignore_fields: Sequence[str] = (),
    trust_code: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
) -> Checked:
    """Run `check`, and put what it raises into the field `error`."""
    found = Checked(where, ignored=tuple(ignore_fields), trusted=trust_code)
    try:
        with explained(where, AssetError):
            return _check(found, task, device, progress)
    except RemainderError as problem:
        found.error = problem
        return found


def _check(found: Checked, task: str | None, device: str, progress: Progress | None) -> Checked:
    where = found.where
    try:
        submission = open_submission(where, found.ignored, trust_code=found.trusted)
        require_plain(submission)  # what `submit` would refuse
    except InterpretationError as problem:
        return found.fail("found", problem)
    found.ok("found", _found(submission))
    chosen = _task_of(submission, task, where)
    found.task, found.named = chosen.id, task or chosen.id
    opened: list[LoadedTask] = []

    def loaded() -> LoadedTask:
        if not opened:  # a text and a model, which a file that does not fit needs neither of
            opened.append(open_task(chosen, device=device, progress=progress))
        return opened[0]

    look: Look = resolve(chosen.kind.check)
    return look(found, submission, chosen, loaded)


def check_reconstruction(
    found: Checked, submission: Submission, task: Task, loaded: Callable[[], LoadedTask]
) -> Checked:
    """Steps 2 to 6 of what rebuilds activations."""

    def site() -> SiteTask:
        return at_site(loaded())

    try:
        interpretation = submission.build(task, lambda: site().fit_moments(task.tier(_TIER).fit_windows))
    except MisfitError as problem:
        return found.fail("fits", problem)
    except InterpretationError as problem:
        return found.fail("weights" if submission.fits(task) else "fits", problem)
    found.ok("fits", _fits(task, interpretation) + _not_compared(interpretation))
    found.warnings += interpretation.warnings
    found.ok("weights", "all there, shapes as they should be, finite" if submission.files else "needs none")
    if interpretation.aliases:
        fits = next(place for place, step in enumerate(found.steps) if step.name == "fits")
        try:
            same = require_same(site(), interpretation)
        except InterpretationError as problem:
            found.steps[fits] = Step("fits", False, problem.what, problem.fix)
            return found
        found.steps[fits] = Step("fits", True, "; ".join([_fits(task, interpretation), *same]))
    with torch.inference_mode():
        _look(found, interpretation.placed(site().device), site())
    interpretation.rest()
    return found


def check_circuits(
    found: Checked, submission: Submission, task: Task, loaded: Callable[[], LoadedTask]
) -> Checked:
    """Step 2 of circuits: those in files are read on the graph of the task's model."""
    found.to_come = _STEPS_OF_CIRCUITS
    if submission.fits(task) and not submission.files:
        found.ok("fits", "found on the task's own prompts when it is run")
        return found
    try:
        read = submission.circuits(on_prompts(loaded()), task.tier(_TIER).fit_windows)
    except InterpretationError as problem:
        return found.fail("fits", problem)
    found.ok("fits", f"circuits of the model {task.model.name}")
    found.warnings += read.notes
    return found


def _look(found: Checked, interpretation: Adapted, loaded: SiteTask) -> None:
    """Steps 3 to 6."""
    sample, left, active, rows = CodeSample(), 0.0, 0.0, Moments.empty(loaded.task.site.width)
    size = max(loaded.batch_size, 2)
    windows = loaded.task.tier(_TIER).calibration_windows
    for number, batch in enumerate(loaded.activations("calibration", windows).batches(size, loaded.device)):
        here, target = batch.spliced, batch.prefix.x_out
        if not number and not here.any():
            raise nothing_spliced()
        x = interpretation.choose(batch.prefix.x_in, target)
        try:
            codes, reconstruction = interpretation.reconstruct(x, here)
            rules = None if number else measure_conformance(interpretation, x, here, target)
        except InterpretationError as problem:
            found.fail("encode, decode", problem)
            return
        if rules is not None:
            found.ok("encode, decode", f"{codes.shape[-1]:,} features; finite on {int(here.sum()):,} tokens")
            for rule in rules.rules:
                far = f"{rule.what} moves by {rule.change:.1g}" if rule.change else "does not move"
                mend = None if rule.is_kept else f"{rule.fix} ({rules.limit:.0e} of its size is allowed)"
                found.steps.append(Step(rule.name, rule.is_kept, f"{far} when {rule.when}", mend))
            if not found.passed:
                return
        sample.update(codes[here], interpretation.coded(target, x)[here], (target - reconstruction)[here])
        left += float((target - reconstruction)[here].double().square().sum())
        active += float((codes[here] != 0).sum())
        rows.update(target[here].cpu())
    decoder = affine_decoder(sample, interpretation, loaded.device)
    affine = "so contributions of features and bits per token can be told"
    if isinstance(decoder, str):
        has_bits = decoder.startswith("decode is not affine")
        more = (
            "codes are quantised in units of their standard deviations" if has_bits else "they have no bits"
        )
        affine = f"{decoder}; {more}"
    found.steps.append(Step("decode affine", None if isinstance(decoder, str) else True, affine))
    features = sample.features or 0
    variance = float(rows.scatter.trace())
    if variance == 0:
        raise MeasurementError(
            "the activations that the task replaces do not vary",
            fix="choose a site at which something happens",
        )
    found.numbers = QuickNumbers(
        left / variance, active / rows.count, sample.live_features, features, rows.count
    )
    if found.numbers.fvu >= 1:
        found.warnings.append(
            f"FVU {found.numbers.fvu:.3g}: the mean would leave less. Was it trained on rescaled "
            "activations, at another place, or of another model?"
        )
    if not sample.live_features and features:
        found.warnings.append("No feature is ever active on these windows.")


def _task_of(submission: Submission, task: str | None, where: str) -> Task:
    if task is not None:
        return load_task(task)
    if not submission.tasks:
        raise TaskError(
            f"{where} does not say which task it was made for",
            fix="name one: `remainder check PATH --task TASK`; `remainder tasks` lists all",
        )
    return load_task(submission.tasks[0])


def _found(submission: Submission) -> str:
    format, number = submission.method.format, len(submission.files)
    if not number:
        return f"format {format}, made from the task"
    return f"format {format}, {number} file{'s' if number != 1 else ''}"


def _fits(task: Task, interpretation: Adapted) -> str:
    site = task.site
    if site.is_reconstruction:
        return f"{site.hook_out}, width {site.width}"
    source = site.hook_in if interpretation.reads == "in" else site.hook_out
    return f"reads {source}, rebuilds {site.hook_out}, width {site.width}"


def _not_compared(interpretation: Adapted) -> str:
    """A remark, behind a semicolon, on names that are not compared until the model is loaded."""
    taken = ", ".join(
        f"{stated} is taken for {ours} by its name" for stated, ours, _ in interpretation.aliases
    )
    return f"; {taken}, which was not compared on the model" if taken else ""


def render(checked: Checked, format: str = "table", *, width: int = WIDTH, color: bool = False) -> str:
    """Render a check as text for a person, or as JSON.

    Raises:
        RecordError: if there is no such format.
    """
    require_format(format, FORMATS)
    if format == "json":
        numbers = None if checked.numbers is None else checked.numbers._asdict()
        content = {
            "submission": checked.where,
            "task": checked.task,
            "passed": checked.passed,
            "error": checked.error
            and {name: getattr(checked.error, name) for name in ("exit_code", "what", "fix")},
            "steps": [step._asdict() for step in checked.steps],
            "numbers": numbers
            and {
                name: significant(value) if isinstance(value, float) else value
                for name, value in numbers.items()
            },
            "warnings": checked.warnings,
        }
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    table = Table.grid(padding=(0, 1))
    where = printable(checked.where)
    reached = {step.name for step in checked.steps}
    left = () if checked.passed else tuple(name for name in checked.to_come if name not in reached)
    room = width - max(map(len, (*reached, *left)), default=0) - _BESIDE
    for step in checked.steps:
        mark, style = {True: ("✓", "green"), False: ("✗", "red"), None: ("·", "dim")}[step.passed]
        table.add_row(
            Text(mark, style),
            Text(step.name, "bold" if step.passed is False else ""),
            Text(fill(step.detail, room, whole=[where])),
        )
        if step.fix is not None:
            table.add_row("", "", Text(fill(f"To mend it: {step.fix}", room, whole=[where]), "bold"))
    for name in left:
        table.add_row(Text("–", "dim"), Text(name, "dim"), Text("not reached", "dim"))
    title = f"{where} on {checked.task}" if checked.task else where
    below = [
        Text(fill(f"! {warning}", width, hanging="  ", whole=[where]), "red") for warning in checked.warnings
    ]
    # All lines are as long as they are to be: rich would break a path, or a command, where it is full.
    return draw([Text(title, "bold"), "", table, "", *_numbers(checked), *below], width=_ANY, color=color)


def _numbers(checked: Checked) -> list[Text]:
    words = ["remainder", "run", str(checked.named), "--with", checked.where]
    words += [word for name in checked.ignored for word in ("--ignore-field", name)]
    words += ["--trust-code"] if checked.trusted else []
    to_copy = Text(f"  {command(words)}")
    if checked.numbers is None:
        return [Text("To score it:", "dim"), to_copy] if checked.passed else []
    fvu, l0, live, features, tokens = checked.numbers
    share = f" ({100 * live / features:.3g} %)" if features else ""
    return [
        Text(f"FVU {fvu:.3g}   L0 {l0:.3g}   {live:,} of {features:,} features live{share}"),
        Text(f"on {tokens:,} calibration tokens. To score it:", "dim"),
        to_copy,
    ]
