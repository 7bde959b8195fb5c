"""Kinds of task: their names, the submissions that they score, and the code that measures them.

A kind is one `TaskKind`. Code to which the kind matters asks `Task.kind` and never branches on it: the
differences are named here, as `module:object`, and imported when used. So this table needs no torch, and a
task can name code of higher layers.

Source: protocol 1, sections 2 and 8.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from remainder.errors import InterpretationError

if TYPE_CHECKING:
    from remainder.task.spec import Task

__all__ = ["OF_TEXT", "TaskKind", "kind_with", "register"]

OF_TEXT = ("corpus", "splits", "positions")
"""Tables of a task on a text."""


@dataclass(frozen=True)
class TaskKind:
    """Everything that the tasks of a kind have in common; code is named as `module:object`."""

    name: str
    table: str | None
    """The table of `task.toml` that marks tasks of this kind; None for tasks without any such table."""
    scores: str
    """A phrase for the submissions that are scored."""
    submissions: frozenset[str]
    """The kinds of submission that are scored."""
    samples: str
    """The unit of a tier's amounts: windows or prompts."""
    has_residual: bool
    """Whether a site has a residual, and with it couplings, annealed losses and tests of Gaussianity."""
    rungs: str
    """The mapping whose keys are all rungs, in the order of tables."""
    open: str
    """Function that loads a task: `(task, device, batch_size, progress) -> LoadedTask`."""
    measure: str
    """The module with `measure` and `remeasure`; both take what the verbs of `LoadedTask` take."""
    wrap: str
    """Function that makes an object a submission: `(object, name, ignore_fields) -> Entry`."""
    check: str
    """The steps of `remainder check` once a submission is read; see `remainder.publish.check`."""
    require: Callable[[Task], None]
    """Function that raises ValueError unless the tables of a task are consistent."""
    facts: Callable[[Task], Iterator[tuple[str, str]]]
    """Lines of `remainder show` for such tasks alone: pairs of a word and a text."""
    not_shared: tuple[str, ...] = ()
    """Tables of `family.toml` that such tasks do not inherit."""
    spec: str = "remainder.task.spec:Task"
    """The class of the task's content."""

    def require_scored(self, name: str, kind: str, task: str) -> None:
        """Raise InterpretationError unless `task`, which is of this kind, scores submissions of `kind`."""
        if kind not in self.submissions:
            raise InterpretationError(
                f"submission {name} is a {kind}; task {task} scores {self.scores}",
                fix="`remainder tasks` lists what there is",
            )


def _require_site(task: Task) -> None:
    missing = [name for name in OF_TEXT if getattr(task, name) is None]
    if task.build is None and (missing or not task.model.is_language_model):
        wanted = ", ".join(missing) or "a place of the model in [model]"
        raise ValueError(f"a task on a text needs {wanted}; one that a script makes needs [build]")
    if task.build is not None and (len(missing) < len(OF_TEXT) or task.model.is_language_model):
        raise ValueError("a task with [build] makes model and data itself: leave out where they are")


def _require_prompts(task: Task) -> None:
    assert task.circuit
    if text := sorted(name for name in OF_TEXT if getattr(task, name) is not None):
        raise ValueError(f"a task with [circuit] has prompts and no text: leave out {', '.join(text)}")
    if (task.build is None) != task.model.is_language_model:
        raise ValueError("a task with [circuit] needs a place of its model in [model], or a [build]")
    if (task.build is None) == (task.circuit.behaviour is None and task.circuit.reader is None):
        raise ValueError(
            "[circuit] needs a `behaviour`, or a `reader` of prompts in the task's folder, except where a "
            "script ([build]) makes the prompts"
        )


def _site_facts(task: Task) -> Iterator[tuple[str, str]]:
    yield "site", f"{task.site.hook_in} -> {task.site.hook_out}, width {task.site.width}"


def _prompt_facts(task: Task) -> Iterator[tuple[str, str]]:
    spec = task.circuit
    assert spec
    if spec.behaviour is not None:
        solved = f"{spec.candidates} candidates a template and split; those that the model solves"
        yield "prompts", f"tasks/{spec.behaviour}: {solved}"
    if spec.reader is not None:
        yield "prompts", "token ids, beside its task.toml"
    sizes = ", ".join(f"{size:g}" for size in spec.sizes)
    yield "sizes", f"{sizes} of all edges; headline {spec.headline:g}"


_KINDS = [
    TaskKind(
        name="prompts",
        table="circuit",
        scores="circuits",
        submissions=frozenset({"circuit", "feature-circuit"}),
        samples="prompts",
        has_residual=False,
        rungs="remainder.circuit.backgrounds:BACKGROUNDS",
        open="remainder.loading.prompts:open_prompt_task",
        measure="remainder.measure.prompts",
        wrap="remainder.submission.objects:circuit_submission",
        check="remainder.publish.check:check_circuits",
        require=_require_prompts,
        facts=_prompt_facts,
        not_shared=OF_TEXT,  # such tasks share the model of a family, but not its text
    ),
    TaskKind(
        name="site",
        table=None,
        scores="reconstructions of activations",
        submissions=frozenset({"reconstruction"}),
        samples="windows",
        has_residual=True,
        rungs="remainder.record.rungs:KERNELS",
        open="remainder.loading.site:open_site_task",
        measure="remainder.measure.site",
        wrap="remainder.submission.objects:object_submission",
        check="remainder.publish.check:check_reconstruction",
        require=_require_site,
        facts=_site_facts,
    ),
]


def register(kind: TaskKind) -> None:
    """Add a kind of task; tasks that have its table are of this kind from now on."""
    _KINDS.insert(0, kind)


def kind_with(tables: Collection[str]) -> TaskKind:
    """The kind of a task that has these tables."""
    return next(kind for kind in _KINDS if kind.table is None or kind.table in tables)
