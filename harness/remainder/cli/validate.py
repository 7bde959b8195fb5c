"""The command `validate`: the benchmark measured on controls whose right answer is known."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from remainder.base.files import require_folder, require_target
from remainder.cli.options import SuiteOption, print_text
from remainder.cli.run_options import DeviceOption
from remainder.errors import RecordError

__all__ = ["validate"]


def validate(
    tasks: Annotated[
        list[str] | None, typer.Argument(metavar="[TASK]...", help="Controls; default: all.")
    ] = None,
    suite: SuiteOption = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the third world, to repeat a run; default: drawn now.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Show every comparison, not failures only.")
    ] = False,
    coverage: Annotated[
        bool, typer.Option("--coverage", help="Count how often 95 % intervals hold the true value, instead.")
    ] = False,
    page: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.md",
            help="Write a page and its figures here; default: docs/validation.md "
            "of the checkout, if all controls are run.",
        ),
    ] = None,
    device: DeviceOption = "auto",
    format: Annotated[str, typer.Option("--format", metavar="FORMAT", help="table, csv or json.")] = "table",
) -> None:
    """Measure the benchmark itself: controls whose right answer is known. Fails if one is missed."""
    from remainder.base.progress import errors, reporting
    from remainder.report.layout import require_format
    from remainder.task.spec import list_tasks
    from remainder.validation.tables import FORMATS, render

    names = [*(tasks or []), *(list_tasks(suite) if suite else [])] or None
    require_format(format, FORMATS)
    if coverage:
        if page is not None:
            raise RecordError("--page goes with a validation, not --coverage", fix="leave out one of the two")
        raise typer.Exit(0 if _covers(names, format) else 1)
    from remainder.validation.page import write_page
    from remainder.validation.run import controls, draw_seeds
    from remainder.validation.run import validate as run_controls

    target = _page(page, names)
    controls(names)  # refuses malformed ones before a seed is drawn
    seeds = draw_seeds(seed)
    if seed is None:
        errors.print(f"seed drawn for the third world: {seeds[-1]}")
    with reporting() as progress:
        validation = run_controls(names, seeds, device=device, progress=progress)
    print_text(render(validation, format, everything=everything, color=sys.stdout.isatty()))
    if target is not None:
        from remainder.validation.laws import cover_laws

        with reporting() as progress:
            covered = cover_laws(progress=progress) if names is None else []
        for path in write_page(validation, target, covered):
            errors.print(f"written: {path}", soft_wrap=True)
    raise typer.Exit(0 if validation.passed else 1)


def _covers(names: list[str] | None, format: str) -> bool:
    """Print how often intervals hold the true value; whether that is often enough."""
    from remainder.base.progress import reporting
    from remainder.validation.coverage import cover_controls, render_coverage
    from remainder.validation.laws import cover_laws

    with reporting() as progress:
        covered = cover_controls(names, progress=progress)
        if names is None:
            covered += cover_laws(progress=progress)
    print_text(render_coverage(covered, format, color=sys.stdout.isatty()))
    return all(one.passed for one in covered)


def _page(page: Path | None, names: list[str] | None) -> Path | None:
    """The page to write, checked before anything is measured; None for no page."""
    from remainder.base.paths import project_root

    docs = project_root() / "docs"
    if page is None and names is None and docs.is_dir():
        page = docs / "validation.md"
    if page is None:
        return None
    if page.parent.is_dir() and (page.suffix != ".md" or page.is_dir()):
        raise RecordError(f"--page {page} is no file that ends in .md", fix="name the page's file so")
    require_target(page, "--page", (".md",))
    require_folder(page.absolute().parent / "figures", "--page", RecordError)
    return page
