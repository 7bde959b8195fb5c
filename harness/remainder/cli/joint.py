"""Parts of commands that measure several rows together: their beginning, and showing what they found."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from remainder.base.files import IMAGES, require_folder, require_target
from remainder.base.resolve import resolve
from remainder.cli.options import print_text
from remainder.errors import RecordError

if TYPE_CHECKING:
    from remainder.base.cache import Progress
    from remainder.loading.loaded import LoadedTask
    from remainder.submission.submission import Entry

__all__ = ["JOINT", "JointKind", "open_asked", "require_output", "show"]


class JointKind(NamedTuple):
    """The functions that read and show a file of several measurements, as `module:function`."""

    read: str
    """The reader: from a path to the arguments of `render` and `figure`, as a tuple."""
    render: str
    figure: str


JOINT = {
    ".flow": JointKind(
        "remainder.record.flow_file:read_flow",
        "remainder.report.flow:render_flow",
        "remainder.report.plot_flow:flow_figure",
    ),
    ".layers": JointKind(
        "remainder.record.layers_file:shown_layers",
        "remainder.report.layers:render_layers",
        "remainder.report.plot_layers:layers_figure",
    ),
    ".levels": JointKind(
        "remainder.record.levels_file:read_levels",
        "remainder.report.levels:render_levels",
        "remainder.report.plot_levels:levels_figure",
    ),
    ".modes": JointKind(
        "remainder.record.modes_file:read_modes",
        "remainder.report.modes:render_modes",
        "remainder.report.plot_modes:modes_figure",
    ),
    ".tissues": JointKind(
        "remainder.record.tissues_file:read_tissues",
        "remainder.report.tissues:render_tissues",
        "remainder.report.plot_tissues:tissues_figure",
    ),
}
"""Kinds of such files by their endings: `remainder explain` shows any of them."""


def require_output(format: str, out: Path, save: Path | None) -> None:
    """Refuse before anything is loaded what could not be written or shown afterwards.

    Raises:
        RecordError: there is no such format, or a place cannot be written to.
    """
    from remainder.report.layout import require_format

    require_format(format)
    require_folder(out, "--out", RecordError)
    if save is not None:
        require_target(save, "--save", IMAGES)


def open_asked(
    task: str,
    names: Sequence[str],
    folder: Path | None,
    *,
    ignore_field: Sequence[str] | None,
    trust_code: bool,
    device: str,
    batch_size: int | None,
    progress: Progress,
) -> tuple[LoadedTask, list[Entry]]:
    """The task with its model and data, and submissions that fit it.

    Args:
        names: what `--with` was given.

    Raises:
        RemainderError: there is no such task or submission, or one does not fit.
    """
    from remainder.loading.open import open_task
    from remainder.submission.open import submissions_for
    from remainder.task.listing import task_in

    place = task if folder is None else task_in(folder, task)
    loaded = open_task(place, device=device, batch_size=batch_size, progress=progress)
    entries = submissions_for(loaded, names, ignore_field or (), trust_code=trust_code)
    for entry in entries:
        entry.require_fit(loaded.task)
    return loaded, entries


def show(ending: str, found: tuple[Any, ...], save: Path | None, format: str) -> None:
    """Draw what was found, where that is asked for, and print it.

    Args:
        ending: of its kind of files.
    """
    kind = JOINT[ending]
    if save is not None:
        from remainder.report.plot import save as save_figure

        save_figure(resolve(kind.figure)(*found), save)
    print_text(resolve(kind.render)(*found, format, color=sys.stdout.isatty()))
