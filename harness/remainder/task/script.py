"""Tasks made by a script: a plain torch module, examples for it, and interpretations whose score is known.

A task whose `task.toml` has a table `[build]` names a script beside it. The script defines

    def build(seed: int, folder: Path, **parameters) -> Built

The script is a file of the task like any other: it is hashed into the task's identity, and it is run when the
task is opened. `folder` is the script's own, which holds trained weights as safetensors. For a task with a
table `[circuit]` it returns a `BuiltCircuit`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from remainder.base.messages import message_of
from remainder.errors import RemainderError, TaskError
from remainder.task.prompts import Prompts
from remainder.task.spec import Task
from remainder.task.text import Split, Windows

__all__ = [
    "Built",
    "BuiltCircuit",
    "Examples",
    "check_targets",
    "data_hash",
    "guarded",
    "load_script",
    "run_circuit_script",
    "run_script",
    "windows_of",
]


_SPLITS: tuple[Split, ...] = ("fit", "calibration", "evaluation")


@dataclass(frozen=True)
class Examples:
    """The windows of one split, in the order in which a smaller tier takes them.

    A document is the unit of resampling, so windows that depend on each other belong to one document. Windows
    of a document are numbered in their order here.
    """

    inputs: NDArray[Any]
    """Inputs of the module, [windows, positions, ...]: float32, or int64 for token ids."""
    targets: NDArray[Any]
    """[windows, positions]: int64 classes, scored by cross-entropy; or float32 numbers, scored by the squared
    error (y − f)²/2 + log(2π)/2, which is −log N(y; f, 1)."""
    documents: tuple[str, ...]
    """Id of the document of each window."""
    spliced: NDArray[np.bool_] | None = None
    """[windows, positions]: where the reconstruction is spliced in; default: everywhere."""
    scored: NDArray[np.bool_] | None = None
    """[windows, positions]: spliced positions whose loss counts; default: all of them."""


@dataclass(frozen=True)
class Built:
    """The result of a task's script.

    Args:
        module: maps inputs [windows, positions, ...] to outputs [windows, positions, classes] (logits) or
            [windows, positions, 1] (a number). The task's site is the name of one of its submodules (an
            `nn.Identity` will do), called exactly once in a pass and giving [windows, positions, width].
        examples: the examples of each split.
        interpretations: objects with `encode` and `decode`, by name; scored beside the task's baselines.
    """

    module: nn.Module
    examples: Mapping[Split, Examples]
    interpretations: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BuiltCircuit:
    """The result of the script of a task with `[circuit]`.

    Args:
        model: an `nn.Module` that is also a `model.graph.CircuitModel`, in float32 on the CPU. It is hashed
            by its parameters and buffers, and copied (`copy.deepcopy`, `.to`) for other dtypes and devices.
        prompts: the prompts of each split, one `Prompts` per template.
        interpretations: circuits by name, scored beside the baselines of the task.
    """

    model: nn.Module
    prompts: Mapping[Split, tuple[Prompts, ...]]
    interpretations: Mapping[str, Any] = field(default_factory=dict)


_Made = TypeVar("_Made", "Built", "BuiltCircuit")


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """A context that turns any exception of a task's script into one message that begins with `what`.

    Raises:
        TaskError: with the type and message of the exception, and the line of the script.
    """
    try:
        yield
    except RemainderError:
        raise
    except (Exception, SystemExit) as problem:  # foreign code may raise anything, or call sys.exit
        last = traceback.extract_tb(problem.__traceback__)[-1]
        place = f"{Path(last.filename).name}, line {last.lineno}"
        raise TaskError(
            f"{what} failed: {type(problem).__name__}: {message_of(problem)} ({place})",
            fix="correct the script",
        ) from problem


def load_script(path: Path) -> Any:
    """The module that a script of a task defines, imported by its path under a private name.

    Raises:
        TaskError: if it cannot be imported.
    """
    path = path.resolve()
    name = f"remainder._scripts.{path.parent.name.replace('-', '_')}.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look up their module by name while their class is made.
    sys.modules[name] = module
    with guarded(f"{path}: importing it"):
        spec.loader.exec_module(module)
    return module


def run_script(task: Task) -> Built:
    """Run the script of a task; every shape and value of the result is checked.

    Raises:
        TaskError: if something is wrong with the result.
    """
    path, built = _run(task, Built)
    for split in _SPLITS:
        if not isinstance(built.examples.get(split), Examples):
            raise TaskError(
                f"{path}: there are no examples of split {split}", fix="give Examples of all three"
            )
        _check(built.examples[split], f"{path}: {split}")
    _check_together([built.examples[split] for split in _SPLITS], path)
    return built


def run_circuit_script(task: Task) -> BuiltCircuit:
    """Run the script of a task with `[circuit]`, and check the result.

    Raises:
        TaskError: if something is wrong with the result.
    """
    path, built = _run(task, BuiltCircuit)
    seen: dict[str, Split] = {}
    for split in _SPLITS:
        groups = built.prompts.get(split)
        if not (isinstance(groups, tuple) and groups and all(isinstance(one, Prompts) for one in groups)):
            raise TaskError(f"{path}: there are no prompts of split {split}", fix="give a tuple of Prompts")
        for document in (name for group in groups for name in group.documents):
            if document in seen:
                raise TaskError(
                    f"{path}: document {document!r} is in {seen[document]} and again in {split}",
                    fix="a document is one prompt, of one split",
                )
            seen[document] = split
    return built


def _run(task: Task, made: type[_Made]) -> tuple[Path, _Made]:
    """The path of a task's script, and the result of its `build`, with the types of its fields checked."""
    spec = task.build
    assert spec is not None
    path = spec.folder / spec.script
    build = getattr(load_script(path), "build", None)
    if not callable(build):
        raise TaskError(f"{path} defines no function build", fix="see remainder.build for what it must give")
    with guarded(f"{path}: build(seed={task.seed}, …)"):
        built = build(seed=task.seed, folder=path.parent, **spec.parameters)
    if not isinstance(built, made):
        raise TaskError(
            f"{path}: build gave {type(built).__name__}", fix=f"return a remainder.build.{made.__name__}"
        )
    for name, value in vars(built).items():
        kind = nn.Module if name in ("module", "model") else Mapping
        if not isinstance(value, kind):
            raise TaskError(
                f"{path}: {name} is of type {type(value).__name__}", fix=f"give a {kind.__name__}"
            )
    return path, built


def windows_of(examples: Examples) -> Windows:
    """Examples as windows; windows of a document are numbered in their order."""
    counts: Counter[str] = Counter()
    indices = []
    for document in examples.documents:
        indices.append(counts[document])
        counts[document] += 1
    spliced, scored = _masks(examples)
    return Windows(
        examples.inputs, tuple(examples.documents), tuple(indices), examples.targets, spliced, scored
    )


def data_hash(built: Built) -> str:
    """SHA-256 over all arrays and documents of all splits."""
    digest = hashlib.sha256()
    for split in sorted(built.examples):
        examples = built.examples[split]
        digest.update(f"{split}|{'|'.join(examples.documents)}|".encode())
        for array in (examples.inputs, examples.targets, *_masks(examples)):
            digest.update(f"{array.dtype}|{array.shape}|".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def check_targets(built: Built, outputs: int) -> None:
    """Check that the targets are classes or numbers that a module with `outputs` outputs can predict.

    Raises:
        TaskError: if they are not.
    """
    for split, examples in built.examples.items():
        if examples.targets.dtype == np.float32 and outputs != 1:
            raise TaskError(
                f"targets of {split} are numbers, and the module has {outputs} outputs",
                fix="give one output, or int64 classes",
            )
        if examples.targets.dtype == np.int64 and int(examples.targets.max()) >= outputs:
            raise TaskError(
                f"a target of {split} is class {examples.targets.max()}; the module has {outputs} outputs",
                fix="number classes from 0, and give an output for each",
            )


def _masks(examples: Examples) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks of spliced and of scored positions, with the defaults filled in."""
    everywhere = np.ones(examples.targets.shape, dtype=np.bool_)
    spliced = everywhere if examples.spliced is None else examples.spliced
    return spliced, spliced if examples.scored is None else spliced & examples.scored


def _check_together(splits: Sequence[Examples], path: Path) -> None:
    if len({(each.targets.dtype, each.inputs.dtype, each.inputs.shape[1:]) for each in splits}) > 1:
        raise TaskError(f"{path}: the splits differ in dtype or shape", fix="give all three of one kind")
    for number, each in enumerate(splits):
        for other in splits[:number]:
            if shared := sorted(set(each.documents) & set(other.documents)):
                raise TaskError(
                    f"{path}: document {shared[0]!r} is in two splits", fix="let no document be in two splits"
                )
    if not _masks(splits[-1])[1].any():
        raise TaskError(f"{path}: no position of evaluation is scored", fix="mark some in `scored`")


def _check(examples: Examples, where: str) -> None:
    inputs, targets = examples.inputs, examples.targets
    arrays = {"inputs": inputs, "targets": targets, "spliced": examples.spliced, "scored": examples.scored}
    for name, array in arrays.items():
        is_mask = name in ("spliced", "scored")
        if is_mask and array is None:
            continue
        if not isinstance(array, np.ndarray):
            raise TaskError(f"{where}: {name} is of type {type(array).__name__}", fix="give a numpy array")
        wanted = ("bool",) if is_mask else ("float32", "int64")
        if array.dtype.name not in wanted:
            raise TaskError(f"{where}: {name} are {array.dtype}", fix=f"give {' or '.join(wanted)}")
        if not np.isfinite(array).all():
            raise TaskError(f"{where}: {name} hold NaN or infinity", fix="give finite numbers")
    expected = inputs.shape[:2]
    shapes = {"targets": targets.shape, "documents": (len(examples.documents), *expected[1:])}
    masks = {"spliced": examples.spliced, "scored": examples.scored}
    shapes |= {name: mask.shape for name, mask in masks.items() if mask is not None}
    for name, shape in shapes.items():
        if shape != expected or len(expected) < 2:
            raise TaskError(
                f"{where}: {name} have shape {shape}, inputs {inputs.shape}",
                fix="inputs are [windows, positions, ...], everything else [windows, positions]",
            )
    if inputs.shape[0] < 2 or inputs.shape[1] < 1:
        raise TaskError(f"{where}: inputs have shape {inputs.shape}", fix="give at least two windows")
    if targets.dtype == np.int64 and int(targets.min()) < 0:
        raise TaskError(
            f"{where}: a target is {targets.min()}", fix="number classes from 0; mask what counts not"
        )
    documents: tuple[Any, ...] = examples.documents  # typed loosely, since a script may return anything
    for document in documents:
        if not (isinstance(document, str) and document and document.isprintable()):
            raise TaskError(
                f"{where}: document {document!r} is no name", fix="give printable text that is not empty"
            )
