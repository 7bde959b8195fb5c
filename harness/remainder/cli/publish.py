"""Commands that publish results: submit them, review, verify and cite them. Thin, as `cli` is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["cite", "review", "submit", "verify"]


def verify(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="Records (.json), folders of results, names of submissions, or how a record's id begins.",
        ),
    ],
    write: Annotated[
        bool, typer.Option("--write", help="Keep each verdict in the folder `verifications` beside results.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes; default: one for each core if there is much to do.")
    ] = None,
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Measure some documents of each record again, on the CPU, too.")
    ] = False,
    documents: Annotated[
        int | None, typer.Option(min=1, help="With --rerun: how many of each record; default: 4.")
    ] = None,
    seed: Annotated[
        str | None,
        typer.Option(metavar="COMMIT", help="With --rerun: documents are drawn by it; default: HEAD."),
    ] = None,
    nonce: Annotated[
        str | None, typer.Option(metavar="WORD", help="With --rerun: and by this; default: drawn now.")
    ] = None,
    submission: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="With --rerun: what was measured; default: by its name."),
    ] = None,
    format: Annotated[str, typer.Option("--format", metavar="FORMAT", help="table or json.")] = "table",
) -> None:
    """Recompute and check all that a record says, without a model. Fails if a record is at fault."""
    from remainder.board.verifications import (
        render_verdicts,
        require_format,
        require_place,
        write_verification,
    )
    from remainder.board.verify import verify_paths
    from remainder.board.which import records_of
    from remainder.errors import RecordError

    def named(given: str) -> list[Path]:
        path = Path(given)
        is_path = bool(given.strip()) and (path.is_dir() or path.suffix == ".json")
        return [path] if is_path else records_of(given)

    require_format(format)
    if not rerun and (documents, seed, nonce, submission) != (None, None, None, None):
        raise RecordError(
            "--documents, --seed, --nonce and --submission say how a record is measured again",
            fix="add --rerun, or leave them out",
        )
    verdicts = verify_paths([path for given in paths for path in named(given)], jobs=jobs)
    print(render_verdicts(verdicts, format))
    passed, again = all(verdict.passed for verdict in verdicts), {}
    for fix in dict.fromkeys(fix for verdict in verdicts for fix in verdict.fixes):
        print(f"  To mend it: {fix}", file=sys.stderr)
    if write:
        for verdict in verdicts:
            require_place(verdict)
    if rerun:
        from remainder.base.progress import errors, reporting
        from remainder.publish.remeasure import DOCUMENTS, render_rerun
        from remainder.publish.remeasure import rerun as measure_again

        for verdict in verdicts:
            if not verdict.passed:
                continue  # its faults are told, and it may be anything
            with reporting() as progress:
                found = measure_again(
                    verdict.path,
                    documents=documents or DOCUMENTS,
                    seed=seed,
                    nonce=nonce,
                    submission=submission,
                    progress=progress,
                )
            again[verdict.path] = found.kept()
            passed = passed and found.passed
            if format == "table":
                print(render_rerun(found), flush=True)
            else:  # what a program reads from standard output stays what it was
                errors.print(render_rerun(found), markup=False, highlight=False, soft_wrap=True)
    if write:
        for verdict in verdicts:
            if verdict.record is not None:  # what cannot be read has been shown, and has no id
                write_verification(verdict, again.get(verdict.path))
    raise typer.Exit(0 if passed else 1)


def submit(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A folder with submission.toml; see docs/submitting.md.")
    ],
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK", help="May be given again; default: all that the submission names."),
    ] = None,
    tier: Annotated[str, typer.Option(help="How much is measured: quick or standard.")] = "quick",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="For records; default: leaderboard/results of the checkout."),
    ] = None,
    submissions: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="For the submission; default: baselines of the checkout."),
    ] = None,
    open_: Annotated[
        bool, typer.Option("--open", help="Commit, push, and open a pull request, with git and gh.")
    ] = False,
) -> None:
    """Check an interpretation, measure it, and put it where a pull request takes it from."""
    import shutil

    from remainder.base.progress import reporting
    from remainder.base.wrapping import command
    from remainder.errors import RecordError
    from remainder.publish.place import standing
    from remainder.publish.requirements import read_described
    from remainder.publish.submit import git_commands, open_pull_request, places, require_repository
    from remainder.publish.submit import submit as submit_folder
    from remainder.report.tables import render

    to = places(out, submissions)
    if open_ and (shutil.which("gh") is None or shutil.which("git") is None):
        raise RecordError(
            "--open needs git and gh, and one of them is not installed",
            fix="install it (https://cli.github.com), or leave out --open: the commands are then printed",
        )
    if open_:  # before anything is measured
        require_repository(to, read_described(path).name)
    with reporting() as progress:
        done = submit_folder(path, to, tasks=task or (), tier=tier, device=device, progress=progress)
    stated: set[str] = set()
    for row in done.rows:
        print(render([row.record], color=sys.stdout.isatty(), stated=stated).rstrip("\n"))
        print("\n".join(standing(row.record, to.results)), end="\n\n")
    if done.left:
        print(f"still required: {', '.join(done.left)}\n")
    if not done.written:
        print("all of it was there already: nothing was written")
    for file in done.written:
        inside = file.is_relative_to(to.root)
        print(f"written: {file.relative_to(to.root) if inside else file}")
    if open_:
        open_pull_request(done)
        return
    inside = all(
        folder.resolve().is_relative_to(to.root.resolve()) for folder in (to.submissions, to.results)
    )
    if inside:
        print("\nTo submit it:")
    else:
        print("\nTo submit it, put these files into baselines/ and leaderboard/results/ of a")
        print("checkout of the repository, and add them there:")
    if inside and to.root.resolve() != Path.cwd():
        print(f"  {command(['cd', str(to.root)])}")
    for words in git_commands(done):
        print(f"  {command(words)}")


def review(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The commit that is merged into.")],
    head: Annotated[str, typer.Argument(metavar="HEAD", help="The last commit of the pull request.")],
    nonce: Annotated[
        str | None, typer.Option(metavar="WORD", help="Draws documents, with HEAD; default: drawn now.")
    ] = None,
    documents: Annotated[int, typer.Option(min=1, help="Of each record, measured again.")] = 4,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.md", help="Write the report here too, pass or fail.")
    ] = None,
) -> None:
    """Review a pull request with a submission, in a checkout of its base. Fails if anything is wrong."""
    import secrets

    from remainder.base.files import require_target
    from remainder.base.progress import reporting
    from remainder.publish.review import review as review_changes
    from remainder.record.json import write_atomically

    if out is not None:
        require_target(out, "--out", (".md",))
    with reporting() as progress:
        found = review_changes(
            base, head, nonce=nonce or secrets.token_hex(8), documents=documents, progress=progress
        )
    text = found.markdown()
    if out is not None:
        write_atomically(out, text.encode())
    print(text, end="")
    raise typer.Exit(0 if found.passed else 1)


def cite(
    what: Annotated[
        str,
        typer.Argument(
            metavar="SNAPSHOT|RECORD", help="A snapshot's name, a record's file, or how its id begins."
        ),
    ],
    format: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="bibtex, cff, apa, or all.")
    ] = "all",
) -> None:
    """Print how a snapshot or a record is cited, with its hash."""
    from remainder.board.cite import cite as cite_text

    print(cite_text(what, format))
