"""The commands `remainder board ...`: they read arguments, call `remainder.board`, and print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from remainder.cli.app import App

__all__ = ["board"]

board = App(
    help="The board of all records: its pages, and snapshots of it.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ResultsOption = Annotated[
    Path | None,
    typer.Option("--results", metavar="FOLDER", help="Where records lie; default: the benchmark's own."),
]
SiteOption = Annotated[Path, typer.Option("--site", metavar="FOLDER", help="The folder of the site.")]


@board.command()
def build(
    results: ResultsOption = None,
    site: SiteOption = Path("site"),
    readme: Annotated[
        Path | None,
        typer.Option(
            "--readme",
            metavar="FILE.md",
            help="Write short tables to this file; the project's own is leaderboard/README.md, which no pull "
            "request may change. Default: none; with --check, that of the checkout.",
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Write nothing; fail if the README is not what the records give."),
    ] = False,
) -> None:
    """Make the site from all records, and short tables with --readme. Fails if a record is left out."""
    from remainder.base.files import require_target
    from remainder.base.paths import is_checkout
    from remainder.base.progress import errors
    from remainder.base.wrapping import command
    from remainder.board.build import build as build_board
    from remainder.board.build import check as check_readme
    from remainder.board.build import write_readme
    from remainder.board.pages import faults_text
    from remainder.board.shelf import chosen_results
    from remainder.errors import RecordError

    where = chosen_results(results)
    if check and readme is None and results is None and is_checkout():
        readme = where.parent / "README.md"
    if check and readme is None:
        raise RecordError("--check: no README is named that could be compared", fix="name one by --readme")
    if readme is not None and not check:
        require_target(readme, "--readme", (".md",))
    built = build_board(where, None if check else site)
    if check:
        assert readme is not None
        differs = check_readme(readme, built)
        words = ["remainder", "board", "build", "--readme", str(readme)]
        if differs:
            raise RecordError(differs, fix=f"run `{command(words)}`, and commit the file on the main branch")
        print(f"{built.records} records of {built.tasks} tasks: README.md is current")
    else:
        if readme is not None:
            write_readme(readme, built)
        print(f"{built.records} records of {built.tasks} tasks: {site / 'index.html'}")
    if built.faults:
        errors.print(f"left out, {len(built.faults)} file(s):", markup=False)
        errors.print(faults_text(built.faults), markup=False, highlight=False, soft_wrap=True)
        errors.print("  To mend it: restore these files as they were written, or take them out of the folder")
        raise typer.Exit(RecordError.exit_code)


@board.command()
def order(results: ResultsOption = None) -> None:
    """Note the arrival of records that are new, for the job on the main branch; see `order.jsonl`."""
    from remainder.board.merge import folders_of_tasks, read_entries
    from remainder.board.shelf import chosen_results
    from remainder.record.order import ORDER, append_order

    where = chosen_results(results)
    paths = [path for some in folders_of_tasks(where).values() for path in some]
    entries, _ = read_entries(where, paths)  # what cannot be read is told by `verify` and `board build`
    added = append_order(where, [entry.record for entry in entries])
    for arrival in added:
        print(f"{arrival.record[:12]} {arrival.submission} on {arrival.task}")
    print(f"{where / ORDER}: {len(added)} of {len(entries)} records are new")


@board.command()
def serve(
    site: SiteOption = Path("site"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 8000,
) -> None:
    """Show a built site at an address of this machine, until it is interrupted."""
    from remainder.board.serve import HOST, server

    with server(site, port) as running:
        print(f"http://{HOST}:{running.server_address[1]}/  (Ctrl-C ends it)", flush=True)
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            print()


@board.command()
def freeze(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Year and month, e.g. 2026.12.")],
    check: Annotated[
        bool, typer.Option("--check", help="Rebuild a frozen snapshot and compare; write nothing.")
    ] = False,
    results: ResultsOption = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where snapshots lie; default: the benchmark's own.")
    ] = None,
) -> None:
    """Write an immutable list of all records, with one hash over them."""
    from remainder.board.packaged import rows_file
    from remainder.board.rows import newest_snapshot, rows_of
    from remainder.board.shelf import chosen_results
    from remainder.board.snapshot import check_snapshot, read_snapshot
    from remainder.board.snapshot import freeze as freeze_records
    from remainder.record.json import write_atomically

    if check:
        snapshot = check_snapshot(name, results=results, folder=out)
        print(f"{name}: {len(snapshot.records)} records, root {snapshot.root}: as it was frozen")
        return
    path = freeze_records(name, results=results, folder=out)
    snapshot = read_snapshot(name, folder=out)
    if out is None and newest_snapshot() == snapshot:
        write_atomically(rows_file(), rows_of(snapshot, chosen_results(results)))
    counts = f"{len(snapshot.records)} records of {len(snapshot.tasks)} tasks"
    print(f"{path}: {counts}\nroot {snapshot.root}")
