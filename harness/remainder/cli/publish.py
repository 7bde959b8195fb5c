"""Commands that submit, review, verify and cite results: they read arguments, call the library, and print."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from remainder.base.wrapping import fill
from remainder.cli.options import TrustOption
from remainder.cli.run_options import DeviceOption

if TYPE_CHECKING:
    from remainder.publish.remeasure import Rerun
    from remainder.publish.submit import Submitted

__all__ = ["audit", "cite", "review", "submit", "verify"]

_WAITS = 8
"""Exit code of a review that found no fault, and waits for somebody; review.yml reads it."""

SeedOption = Annotated[
    str | None,
    typer.Option(metavar="COMMIT", help="With --rerun: the first seed of the draw; default: HEAD."),
]
NonceOption = Annotated[
    str | None, typer.Option(metavar="WORD", help="With --rerun: the second seed; default: drawn now.")
]


def verify(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="Records (.json), flows (.flow), folders of results, names of submissions, or how a "
            "record's id begins.",
        ),
    ],
    write: Annotated[
        bool, typer.Option("--write", help="Keep each verdict in the folder `verifications` beside results.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes; default: one for each core if there is much to do.")
    ] = None,
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Also measure some documents of each record again, on the CPU.")
    ] = False,
    documents: Annotated[
        int | None, typer.Option(min=1, help="With --rerun: number of documents of each record; default: 4.")
    ] = None,
    seed: SeedOption = None,
    nonce: NonceOption = None,
    draws: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="With --rerun: measure the records that have a key in this file, and draw documents by it.",
        ),
    ] = None,
    submission: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="With --rerun: the interpretation; default: found by its name."),
    ] = None,
    task: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="With --rerun: the folder of the task; default: found by its id."),
    ] = None,
    trust_code: TrustOption = False,
    format: Annotated[str, typer.Option("--format", metavar="FORMAT", help="table or json.")] = "table",
) -> None:
    """Recompute and check all that a record says, without a model. Fails if a record is at fault."""
    from remainder.board import verifications
    from remainder.board.verify import verify_paths
    from remainder.publish.verdicts import measure_and_keep, plans_of
    from remainder.report.layout import require_format

    require_format(format, verifications.FORMATS)
    place = None if task is None else task.absolute()
    settings = {
        "documents": documents, "seed": seed, "nonce": nonce, "submission": submission, "task": place
    }  # fmt: skip
    given = {name: value for name, value in settings.items() if value is not None}
    keys = _keys(draws, given | ({"trust_code": True} if trust_code and not rerun else {}), rerun)
    verdicts = verify_paths([path for name in paths for path in _files(name)], jobs=jobs)
    print(verifications.render_verdicts(verdicts, format))
    for fix in dict.fromkeys(fix for verdict in verdicts for fix in verdict.fixes):
        print(_wrapped(f"  To mend it: {fix}"), file=sys.stderr)
    plans = plans_of(verdicts, given, keys) if rerun else {}
    plans = {path: {**one, "trust_code": trust_code} for path, one in plans.items()}
    show = partial(_show_rerun, to_stderr=format != "table")
    # Where draws are given, all records of a board are looked at: one that lies elsewhere than it says, which
    # is a fault, or cannot be measured, stops no other.
    again, problems = measure_and_keep(verdicts, plans, write=write, anywhere=keys is not None, show=show)
    if problems and keys is None:
        raise next(iter(problems.values()))
    for path, problem in problems.items():
        print(f"{path}: could not be measured again: {problem}", file=sys.stderr)
    passed = [one.passed for one in verdicts] + [one.passed for one in again.values()]
    raise typer.Exit(0 if all(passed) and not problems else 1)


def _keys(draws: Path | None, given: Mapping[str, object], rerun: bool) -> dict[str, str] | None:
    """Keys of the file of draws, if there is one and the other options of `verify` admit it."""
    from remainder.errors import RecordError
    from remainder.publish.draws import read_draws

    if not rerun and (given or draws is not None):
        raise RecordError(
            "--documents, --seed, --nonce, --draws, --submission, --task and --trust-code say how a record "
            "is measured again",
            fix="add --rerun, or leave them out",
        )
    if draws is not None and given:
        raise RecordError(
            f"--draws says which documents of which records are drawn, and so does --{next(iter(given))}",
            fix="leave out one of them",
        )
    return None if draws is None else read_draws(draws)


def _files(given: str) -> list[Path]:
    """The records that an argument of `verify` names."""
    from remainder.board.which import records_of

    path = Path(given)
    is_path = bool(given.strip()) and (path.is_dir() or path.suffix == ".json")
    return [path] if is_path else records_of(given)


def _show_rerun(found: Rerun, *, to_stderr: bool) -> None:
    """Print what came of measuring a record again."""
    from remainder.base.progress import errors
    from remainder.publish.remeasure import render_rerun

    if to_stderr:  # standard output is for programs
        errors.print(render_rerun(found), markup=False, highlight=False, soft_wrap=True)
    else:
        print(render_rerun(found), flush=True)


def submit(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A folder with submission.toml; see docs/submitting.md.")
    ],
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK", help="May be given again; default: all that the submission names."),
    ] = None,
    tier: Annotated[str, typer.Option(help="How much is measured: quick or standard.")] = "quick",
    device: DeviceOption = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Where records go; default: leaderboard/results of the checkout."
        ),
    ] = None,
    submissions: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where the submission goes; default: baselines of the checkout."),
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The method that it is of, one name for its submissions to several sites; written into its "
            "submission.toml.",
        ),
    ] = None,
    measured: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="Where `remainder run` has put records; those of the same measurement are taken over.",
        ),
    ] = Path("results"),
    trust_code: TrustOption = False,
    open_: Annotated[
        bool, typer.Option("--open", help="Commit, push, and open a pull request, with git and gh.")
    ] = False,
) -> None:
    """Check an interpretation, measure it, and put it where a pull request takes it from."""
    import shutil

    from remainder.base.progress import reporting
    from remainder.errors import RecordError
    from remainder.publish.place import describe_place
    from remainder.publish.requirements import read_described, untold
    from remainder.publish.submit import open_pull_request, places, require_repository
    from remainder.publish.submit import submit as submit_folder
    from remainder.report.tables import render

    to = places(out, submissions)
    if open_ and (shutil.which("gh") is None or shutil.which("git") is None):
        raise RecordError(
            "--open needs git and gh, and one of them is not installed",
            fix="install it (https://cli.github.com), or leave out --open: the commands are then printed",
        )
    if open_:  # before anything is measured
        require_repository(to, read_described(path, trust_code=trust_code).name)
    with reporting() as progress:
        done = submit_folder(
            path,
            to,
            tasks=task or (),
            tier=tier,
            device=device,
            family=family,
            measured=measured,
            trust_code=trust_code,
            progress=progress,
        )
    stated: set[str] = set()
    for row in done.rows:
        print(render([row.record], color=sys.stdout.isatty(), stated=stated).rstrip("\n"))
        if row.kept:
            print(_wrapped(f"{row.record.task.id}: measured before; the record is taken over."))
        print(*map(_wrapped, describe_place(row.record, to.results)), sep="\n", end="\n\n")
    if (request := untold(done.submission)) is not None:
        print(f"{_wrapped(request)}\n")
    if done.left:
        print(f"still required: {', '.join(done.left)}\n")
    if not done.written:
        print("all of it was there already: nothing was written")
    for file in done.written:
        inside = file.is_relative_to(to.root)
        print(f"written: {file.relative_to(to.root) if inside else file}")
    if open_:
        open_pull_request(done)
    else:
        _print_commands(done)


def _wrapped(sentence: str) -> str:
    """A sentence in lines of a terminal."""
    from remainder.report.layout import WIDTH

    return fill(sentence, WIDTH, hanging="  ")


def _print_commands(done: Submitted) -> None:
    """Print how the written files are submitted, as commands where they lie in a checkout."""
    from remainder.base.wrapping import command
    from remainder.publish.submit import git_commands

    root = done.places.root.resolve()
    inside = all(
        folder.resolve().is_relative_to(root) for folder in (done.places.submissions, done.places.results)
    )
    if inside:
        print("\nTo submit it:")
    else:
        print("\nTo submit it, put these files into baselines/ and leaderboard/results/ of a")
        print("checkout of the repository, and add them there:")
    if inside and root != Path.cwd():
        print(f"  {command(['cd', str(done.places.root)])}")
    for words in git_commands(done):
        print(f"  {command(words)}")
    print(
        "`gh repo fork` makes your own copy of the repository, to which you may push, and changes nothing if"
    )
    print("you have one. Who may push to the repository itself leaves it out, and pushes to origin.")


def review(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The commit that is merged into.")],
    head: Annotated[str, typer.Argument(metavar="HEAD", help="The last commit of the pull request.")],
    draws: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json", help="The key of each record's draw of documents; default: drawn now."
        ),
    ] = None,
    documents: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of documents of each record to measure again; default: so many that a quarter of "
            "them cannot be altered unseen.",
        ),
    ] = None,
    failed: Annotated[
        int,
        typer.Option(
            min=0, help="Reviews of this author that failed before; from 3 on, all is measured again."
        ),
    ] = 0,
    trust_code: TrustOption = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.md", help="Write the report here too, pass or fail.")
    ] = None,
) -> None:
    """Review a pull request with a submission, in a checkout of its base.

    Fails if anything is wrong; leaves with 8 if nothing is, and code was not run for want of --trust-code.
    """
    from remainder.base.files import require_target
    from remainder.base.progress import reporting
    from remainder.publish.draws import read_draws
    from remainder.publish.review import review as review_changes
    from remainder.record.json import write_atomically

    if out is not None:
        require_target(out, "--out", (".md",))
    keys = None if draws is None else read_draws(draws)
    with reporting() as progress:
        outcome = review_changes(
            base,
            head,
            draws=keys,
            documents=documents,
            failed=failed,
            trust_code=trust_code,
            progress=progress,
        )
    text = outcome.markdown()
    if out is not None:
        write_atomically(out, text.encode())
    print(text, end="")
    raise typer.Exit(0 if outcome.passed else 1 if outcome.faults else _WAITS)


def audit(
    record: Annotated[
        str,
        typer.Argument(metavar="RECORD", help="A record (.json), or how its id begins."),
    ],
    text: Annotated[
        Path,
        typer.Option(metavar="FILE", help="A sealed text, whose hash leaderboard/audit.toml holds."),
    ],
    submission: Annotated[
        str | None, typer.Option(metavar="PATH", help="The interpretation; default: found by its name.")
    ] = None,
    trust_code: TrustOption = False,
    write: Annotated[
        bool, typer.Option("--write", help="Keep the verdict beside results: it counts as a use of the text.")
    ] = False,
) -> None:
    """Score a record's submission on a sealed text. Fails if its place does not hold there."""
    from remainder.base.progress import reporting
    from remainder.board.shelf import results_root
    from remainder.errors import RecordError
    from remainder.publish.audit import audit as audit_record
    from remainder.publish.audit import render_audit

    found = [file for path in _files(record) for file in (path.rglob("*.json") if path.is_dir() else [path])]
    fix = "give one record, as <task>/<N>/<submission>/<record_id>.json or by how its id begins"
    if len(found) != 1:
        raise RecordError(f"{record} holds {len(found)} records, and one is audited at a time", fix=fix)
    if (root := results_root(found[0])) is None:
        raise RecordError(f"{found[0]} lies in no folder of results", fix=fix)
    with reporting() as progress:
        done = audit_record(
            found[0],
            text,
            root,
            submission=submission,
            trust_code=trust_code,
            keep=write,
            progress=progress,
        )
    print(render_audit(done))
    raise typer.Exit(0 if done.verdict.holds else 1)


def cite(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[SNAPSHOT|RECORD]",
            help="A snapshot's name, a record's file, or how its id begins. Default: the newest "
            "snapshot, which stands for the benchmark.",
        ),
    ] = None,
    format: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="bibtex, cff, apa, or all.")
    ] = "bibtex",
) -> None:
    """Print how the benchmark, a snapshot or a record is cited, with its hash."""
    from remainder.board.cite import citation_of
    from remainder.board.cite import cite as cite_text
    from remainder.board.rows import newest_snapshot
    from remainder.board.shelf import results_folder
    from remainder.errors import RecordError
    from remainder.record.withdrawn import read_withdrawn

    if what is None:
        if (newest := newest_snapshot()) is None:
            raise RecordError("there is no snapshot to cite", fix="name a record")
        what = newest.name
    print(cite_text(what, format))
    found = citation_of(what)
    if (gone := read_withdrawn(results_folder()).get(found.hash)) is not None:
        print(_wrapped(f"  This record {gone.sentence}"), file=sys.stderr)
    if found.date is None:
        why = (
            "  It has no date here: a snapshot's is that of its commit, which only a checkout with its whole "
            "history knows, and no day that is still to come is taken for one."
        )
        print(_wrapped(why), file=sys.stderr)
