"""Citations of a snapshot or a record: BibTeX, the Citation File Format 1.2, and APA style.

1. Find what is meant: a snapshot by name, a record by its file or by how its id begins, archived ones last;
   in an installed package, which has no records, a row of its newest snapshot.
2. Who: of a snapshot the benchmark's authors, as CITATION.cff has them; of a record those of the submission,
   if it comes with the benchmark.
3. When: of a record the day that it was written; of a snapshot that of its commit, since its name is a label.
   Where no history of the repository is at hand, in an installed package say, and where a clock was wrong and
   the day is still to come, it has no date ("n.d.").
4. Where: the address of the repository, and of a snapshot the DOI that CITATION.cff has, once there are any.
5. Write it down, with the hash that pins every number: the Merkle root of a snapshot, the id of a record.
"""

from __future__ import annotations

import datetime
import difflib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]

from remainder._version import __version__
from remainder.base.address import repository
from remainder.base.files import read_toml
from remainder.base.paths import baseline_folders, project_root
from remainder.board.packaged import packaged
from remainder.board.shelf import archives, relative_place, results_folder
from remainder.board.snapshot import Snapshot, read_snapshot, snapshots_folder
from remainder.board.which import record_of
from remainder.errors import InterpretationError, RecordError
from remainder.record.provenance import added_on
from remainder.record.schema import Record
from remainder.record.store import read_record
from remainder.report.layout import require_format

__all__ = ["FORMATS", "Citation", "citation_of", "cite", "of_snapshot", "styles"]

FORMATS = ("bibtex", "cff", "apa", "all")

_TITLE = "Remainder: a benchmark for what an interpretation of a neural network leaves out"
_SHORTEST = 6  # hexadecimal digits of an id that are taken for one
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_TEX = str.maketrans(
    {
        # Of braces BibTeX counts even those behind a backslash.
        "\\": r"{\textbackslash}",
        "{": r"{\textbraceleft}",
        "}": r"{\textbraceright}",
        "$": r"\$",
        "&": r"\&",
        "%": r"\%",
        "#": r"\#",
        "_": r"\_",
        "~": r"{\textasciitilde}",
        "^": r"{\textasciicircum}",
    }
)


class Citation(NamedTuple):
    """The content of a citation, in any style."""

    key: str
    """The key for BibTeX: letters, digits and hyphens."""
    title: str
    authors: tuple[str, ...]
    """Names of people or groups, as they write themselves."""
    version: str
    date: str | None
    """Year, month and day: of the measurement, or of a snapshot's commit; None if that is not known here."""
    hash: str
    hash_name: str
    """A name for what is hashed."""
    url: str | None = None
    doi: str | None = None


def cite(what: str, format: str = "bibtex") -> str:
    """The citation of a snapshot or record.

    Args:
        what: name of a snapshot, path of a record or of the folder that holds it, or how a record's id
            begins (6 digits or more).
        format: one of `FORMATS`.

    Raises:
        RecordError: if there is no such thing (near ones are named), several, or no such format.
    """
    require_format(format, FORMATS)
    found = styles(citation_of(what))
    return "\n\n".join(found.values()) if format == "all" else found[format]


def styles(found: Citation) -> dict[str, str]:
    """A citation in every style, by `FORMATS`."""
    return {"bibtex": _bibtex(found), "cff": _cff(found), "apa": _apa(found)}


def citation_of(what: str) -> Citation:
    """The citation of a snapshot or record; arguments and errors are those of `cite`."""
    if re.fullmatch(r"20\d\d\.\d\d(\.\d+)?", what):
        if (file := snapshots_folder() / f"{what}.json").is_file():
            return of_snapshot(read_snapshot(what), added_on(file))
        raise _unknown(what)
    path = Path(what)
    if path.suffix == ".json" or path.exists():
        return _of_record(read_record(path if path.suffix == ".json" else record_of(what)).record)
    if not re.fullmatch(rf"[0-9a-f]{{{_SHORTEST},64}}", what):
        raise _unknown(what)
    for root in _roots():
        if matching := [file for file in root.rglob("*.json") if file.stem.startswith(what)]:
            break
    else:
        return _of_package(what)
    if len(matching) > 1:
        names = ", ".join(sorted(_named(file) for file in matching)[:5])
        raise RecordError(f"{len(matching)} records begin with {what}: {names}", fix="give more digits")
    return _of_record(read_record(matching[0]).record)


def _roots() -> list[Path]:
    """Folders of records: the benchmark's, and its archives."""
    return [results_folder(), *archives(results_folder())]


def of_snapshot(snapshot: Snapshot, date: str | None) -> Citation:
    """The citation of a snapshot that was committed on `date`."""
    name = snapshot.name
    tasks = len({task.id for task in snapshot.tasks})
    count = f"{len(snapshot.records)} record{'s' * (len(snapshot.records) != 1)}"
    return Citation(
        key=f"remainder-{name.replace('.', '-')}",
        title=f"{_TITLE}. Leaderboard {name} ({count} of {tasks} task{'s' * (tasks != 1)})",
        authors=_contributors(),
        version=name,
        date=_past(date),
        hash=snapshot.root,
        hash_name="Merkle root",
        url=repository(),
        doi=_project().get("doi"),
    )


def _of_record(record: Record) -> Citation:
    return _of_measurement(
        record.submission.name,
        None if record.reference is None else record.reference.name,
        record.record_id,
        f"{record.task.id} {record.task.version}, {record.tier}",
        version=record.provenance.packages.get("remainder", __version__),
        date=record.provenance.timestamp[:10],
    )


def _of_measurement(
    submission: str, reference: str | None, record_id: str, where: str, *, version: str, date: str
) -> Citation:
    name = submission if reference is None else f"{submission} nested in {reference}"
    return Citation(
        key=f"remainder-{record_id[:12]}",
        title=f"{name} on {where}: a record of Remainder",
        authors=_authors(submission) or _contributors(),
        version=version,
        date=_past(date),
        hash=record_id,
        hash_name="record id",
        url=repository(),
    )


def _of_package(start: str) -> Citation:
    """The citation of the one record of an installed package whose id begins so."""
    board = packaged()
    rows = [] if board is None else [row for row in board.rows if str(row["record_id"]).startswith(start)]
    if not rows:
        raise _unknown(start)
    if len(rows) > 1:
        names = ", ".join(f"{str(row['record_id'])[:12]} ({row['submission']})" for row in rows[:5])
        raise RecordError(f"{len(rows)} records begin with {start}: {names}", fix="give more digits")
    row = {key: str(value) for key, value in rows[0].items()}
    return _of_measurement(
        row["submission"],
        row.get("reference"),
        row["record_id"],
        f"{row['task']} {row['version']}, {row['tier']}",
        version=row["remainder"],
        date=row["written"],
    )


@cache
def _project() -> Mapping[str, Any]:
    """CITATION.cff of the project."""
    found: dict[str, Any] = yaml.safe_load((project_root() / "CITATION.cff").read_text(encoding="utf-8"))
    return found


def _contributors() -> tuple[str, ...]:
    """The benchmark's authors: people by their given and family names, groups by their name."""
    names = (
        author.get("name")
        or " ".join(author[key] for key in ("given-names", "name-particle", "family-names") if key in author)
        for author in _project()["authors"]
    )
    return tuple(names)


def _past(date: str | None) -> str | None:
    """The date, unless it is still to come: then a clock was wrong, and nobody knows when it was."""
    return None if date is None or date > _today() else date


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _authors(submission: str) -> tuple[str, ...]:
    """Authors of a submission, if it comes with the benchmark."""
    folder = baseline_folders().get(submission)
    if folder is None:
        return ()
    found = read_toml(folder / "submission.toml", error=InterpretationError).get("authors", [])
    return tuple(str(author) for author in found)


def _unknown(what: str) -> RecordError:
    """The error that offers snapshots and records of a near name or id, or of a submission so called."""
    snapshots = sorted(path.stem for path in snapshots_folder().glob("*.json"))
    paths = [path for root in _roots() for path in sorted(root.rglob("*.json"))]
    of_name = [_named(path) for path in paths if path.parent.name == what]
    ids = {path.stem[: max(len(what), 12)]: _named(path) for path in paths}
    near = difflib.get_close_matches(what, [*snapshots, *ids], n=3, cutoff=0.5)
    offers = of_name[:3] or [ids.get(name, name) for name in near]
    known = ", ".join(snapshots) or "none yet"
    return RecordError(
        f"there is no snapshot or record {what[:80]!a}",
        fix=f"did you mean {', '.join(offers)}?"
        if offers
        else f"give a record's file or how its id begins, or a snapshot ({known})",
    )


def _named(path: Path) -> str:
    """A record by the start of its id and where it lies."""
    return f"{path.stem[:12]} ({relative_place(path.parent, results_folder())})"


def _year(found: Citation) -> str:
    return "n.d." if found.date is None else found.date[:4]


def _bibtex(found: Citation) -> str:
    # A name in braces is a group, or a person as written: BibTeX takes nothing of it apart.
    authors = " and ".join(f"{{{author.translate(_TEX)}}}" for author in found.authors)
    fields = {
        "author": f"{{{authors}}}",
        "title": f"{{{{{found.title.translate(_TEX)}}}}}",
        "year": f"{{{_year(found)}}}",
        **({} if found.date is None else {"month": _MONTHS[int(found.date[5:7]) - 1]}),
        "version": f"{{{found.version.translate(_TEX)}}}",
        **({} if found.doi is None else {"doi": f"{{{found.doi}}}"}),
        **({} if found.url is None else {"url": f"{{{found.url}}}"}),
        "note": f"{{{found.hash_name.translate(_TEX)} \\texttt{{{found.hash}}}}}",
    }
    lines = [f"  {name:<7} = {value}," for name, value in fields.items()]
    return "\n".join([f"@misc{{{found.key},", *lines, "}"])


def _cff(found: Citation) -> str:
    content = {
        "cff-version": "1.2.0",
        "message": "If you use these numbers, please cite them.",
        "type": "dataset",
        "title": found.title,
        "authors": [{"name": author} for author in found.authors],
        "version": found.version,
        **({} if found.date is None else {"date-released": found.date}),
        **({} if found.doi is None else {"doi": found.doi}),
        **({} if found.url is None else {"url": found.url}),
        "identifiers": [
            {"type": "other", "value": f"sha256:{found.hash}", "description": found.hash_name},
        ],
    }
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10_000)
    return text.rstrip("\n")


def _apa(found: Citation) -> str:
    *others, last = found.authors
    names = f"{', '.join(others)}, & {last}" if others else last
    version = f"Version {found.version}; {found.hash_name} {found.hash}"
    places = [f"https://doi.org/{found.doi}" if found.doi else "", found.url or ""]
    where = "".join(f" {place}" for place in places if place)
    return f"{names} ({_year(found)}). {found.title} ({version}) [Data set].{where}"
