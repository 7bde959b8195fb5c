"""The command `remainder withdraw`."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Annotated

import typer

from remainder.base.wrapping import command, fill
from remainder.cli.options import RECORD_HELP, one_record
from remainder.errors import RecordError
from remainder.report.layout import WIDTH

__all__ = ["withdraw"]


def withdraw(
    record: Annotated[str, typer.Argument(metavar="RECORD", help=RECORD_HELP)],
    reason: Annotated[str, typer.Option(metavar="SENTENCE", help="Why, for everybody to read.")],
    by: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who withdraws it; default: git's user.name.")
    ] = None,
    replaced_by: Annotated[
        str | None, typer.Option(metavar="RECORD", help="The record that takes its place.")
    ] = None,
) -> None:
    """Withdraw a record of a leaderboard: it stays where it lies, and is on no board any more."""
    from remainder.board.shelf import is_board, results_root
    from remainder.record.store import read_sealed
    from remainder.record.withdrawn import WITHDRAWN
    from remainder.record.withdrawn import withdraw as add_line

    path = one_record(record)
    found, root = read_sealed(path), results_root(path)
    if root is None or not is_board(root):
        raise RecordError(f"{path} lies on no leaderboard", fix="delete it, if it is nobody else's")
    other = None if replaced_by is None else one_record(replaced_by)
    if other is not None and results_root(other) != root:
        raise RecordError(f"{other} lies in another folder of results", fix="submit it first")
    instead = None if other is None else read_sealed(other)
    line = add_line(root, found, by=by or _user(), reason=reason, replaced_by=instead)
    what = f"{found.submission.name} on {found.task.id}"
    print(fill(f"{what} {line.sentence}", WIDTH))
    place = (root / WITHDRAWN).absolute()
    inside = place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else place
    print(f"\nTo commit it:\n  {command(['git', 'add', str(inside)])}")
    print(f"  {command(['git', 'commit', '-m', f'Withdraw {what}'])}")


def _user() -> str:
    """The name that git knows the user by.

    Raises:
        RecordError: it knows none.
    """
    try:
        done = subprocess.run(["git", "config", "user.name"], capture_output=True, text=True, check=False)
        name = done.stdout.strip()
    except FileNotFoundError:
        name = ""
    if not name:
        raise RecordError("git knows no name of yours", fix="say by whom: --by NAME")
    return name
