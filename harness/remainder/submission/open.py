"""Opening a submission from what a person names.

1. A folder with a `submission.toml`, or the name of a baseline.
2. What one of the formats' own libraries wrote, a folder or a file: the first format in the table that
   recognises it.
3. `hub:OWNER/REPO:SAE_ID`, or a release of sae-lens's list for OWNER/REPO.
4. A name that another package registers in the group `remainder.submissions`, whose object is the path of a
   folder with a `submission.toml`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from remainder.base.files import explained, present, require_file
from remainder.base.messages import first_fault
from remainder.base.paths import BENCHMARK, SECOND_PACKAGE, baseline, root_of
from remainder.base.plugins import SUBMISSIONS, plugin_folder
from remainder.base.resolve import resolve
from remainder.errors import InterpretationError
from remainder.formats import attribution_graph, hub
from remainder.formats.recognition import look
from remainder.record.naming import LONGEST, shortened
from remainder.submission.code import require_trust
from remainder.submission.description import baselines, comes_with_second_package, read_description
from remainder.submission.hashes import own_hashes, site_hashes
from remainder.submission.method import Method, SiteSource, read_method
from remainder.submission.registry import format_of, recognised
from remainder.submission.submission import Entry, Submission
from remainder.submission.unread import code_alone, graph_alone, not_found, part_of_folder
from remainder.task.spec import Task

if TYPE_CHECKING:
    from remainder.loading.loaded import LoadedTask

__all__ = [
    "absent_baselines",
    "baselines_for",
    "coded_baselines",
    "open_site",
    "open_submission",
    "read_folder",
    "submissions_for",
]

_LEAST = 8  # letters of a repository's name that say something


def open_submission(
    where: str | Path, ignore_fields: Sequence[str] = (), *, trust_code: bool = False
) -> Submission:
    """The submission that `where` names; see this module's text.

    Args:
        where: a folder (or the YAML file of circuit-tracer), a baseline, or `hub:OWNER/REPO:SAE_ID`.
        ignore_fields: fields of its files, to be passed over where they would be refused; beside those that
            its `submission.toml` names. They are part of what the submission is, and of its hash.
        trust_code: whether its code may be executed when it is scored, if it is code.

    Raises:
        InterpretationError: if there is none, its `submission.toml` is malformed, or it is code that is not
            trusted.
    """
    with explained(where, InterpretationError):
        submission = _opened(str(where))
    if trust_code:
        submission = submission.model_copy(update={"is_trusted": True})
    require_trust(submission)
    return _ignoring(submission, ignore_fields) if ignore_fields else submission


def _ignoring(submission: Submission, names: Sequence[str]) -> Submission:
    """Add these to the fields that the submission ignores."""
    method = submission.method.model_dump(exclude_unset=True)
    method["ignore_fields"] = tuple(sorted({*names, *(submission.method.get("ignore_fields") or ())}))
    try:
        return submission.model_copy(update={"method": type(submission.method).model_validate(method)})
    except ValidationError as problem:
        raise InterpretationError(
            f"{submission.name}: {first_fault(problem)}", fix="leave out --ignore-field"
        ) from None


def _opened(text: str) -> Submission:
    if text.startswith("hub:"):
        return _on_hub(hub.parse(text[4:]))
    folder = Path(text)
    if not folder.exists():
        own = baseline(text.removeprefix(BENCHMARK))
        if own.is_dir():
            folder = own
        elif not present(folder):
            folder = plugin_folder(SUBMISSIONS, text, "submission.toml", InterpretationError) or folder
    if present(folder) and not folder.is_dir():
        require_file(folder)
    if folder.is_file():
        return _of_file(folder)
    if present(folder / "submission.toml"):
        return read_folder(folder).fetched()
    if (row := recognised(folder, "folder")) is not None:
        return _bare(_own_name(folder), read_method({"format": row.name, "path": "."}), folder)
    raise not_found(text, folder)


def _of_file(path: Path) -> Submission:
    """The submission that is read from one file: a list of transcoders, or a circuit."""
    if attribution_graph.found_in(path):
        raise graph_alone(path)
    row = recognised(path, "file")
    if row is not None:
        # The file of a format that is a folder too, such as a list of weights, is called after its folder.
        name = _own_name(path.parent) if "folder" in row.sources else path.stem
        return _bare(name, read_method({"format": row.name, "path": path.name}), path.parent)
    seen = look(path)
    if seen.beside or present(path.parent / "submission.toml"):
        raise part_of_folder(path, seen)
    if path.suffix == ".py":
        raise code_alone(path)
    raise seen.refused(path)


def _on_hub(address: hub.Address) -> Submission:
    """An SAE on a hub, fetched, and in the format that its folder is found to have."""
    fetched = hub.fetch(address)
    format, place = hub.RELEASE_FORMAT, f"{address.place}:{address.sae_id}"
    if fetched.folder is not None:
        if (row := recognised(fetched.folder, "hub")) is None:
            raise not_found(str(address), fetched.folder)
        format = row.name
    method = read_method({"format": format, "hub": place, "revision": address.revision})
    # The id tells the SAEs of one repository apart, and is kept whole if there is room beside it.
    repository, room = address.place.rpartition("/")[2], LONGEST - 1 - len(address.sae_id)
    short = shortened(repository, room) if room >= _LEAST else repository
    return _bare(f"{short}-{address.sae_id}", method).model_copy(update=fetched._asdict())


def open_site(folder: Path, source: SiteSource) -> Submission:
    """The submission of a reconstruction whose latents are nodes of a circuit of features in `folder`.

    Raises:
        InterpretationError: there is none, it is something else, or it lies on a hub.
    """
    place, where = root_of(folder, source.submission) / source.submission, folder / "submission.toml"
    if not place.exists():
        raise InterpretationError(
            f"{where}: method.sites: there is no {source.submission}",
            fix=f"give a folder in {folder}, or {BENCHMARK}NAME, one that comes with the benchmark",
        )
    described = present(place / "submission.toml")
    # It is hashed only when its kind is known: it might have sites of its own, even this one.
    submission = _described(place) if described else open_submission(place)
    if submission.kind != "reconstruction" or submission.is_on_hub or submission.format.runs_code:
        what: str = "submission that lies on a hub" if submission.is_on_hub else submission.kind
        what = "method that is code" if submission.format.runs_code else what
        raise InterpretationError(
            f"{where}: method.sites: {source.submission} is a {what}",
            fix="name the submission of a reconstruction, such as that of an SAE, with all files in a folder",
        )
    return _hashed(place, submission) if described else submission


def baselines_for(task: Task, *, trust_code: bool = False) -> list[Submission]:
    """All bundled baselines that fit a task, by name; those on a hub are not fetched yet, and those of
    `SECOND_PACKAGE` are left out without it, as those that are code are without trust."""
    # Files of others are not even looked at.
    absent = {*absent_baselines(task), *(() if trust_code else coded_baselines(task))}
    found = [read_folder(folder) for folder, found in baselines(task) if found.name not in absent]
    return [each.model_copy(update={"is_trusted": trust_code}) for each in found]


def coded_baselines(task: Task) -> list[str]:
    """Names of the baselines that fit a task and are code."""
    return [found.name for _, found in baselines(task) if format_of(found.method.format).runs_code]


def absent_baselines(task: Task) -> list[str]:
    """Names of the baselines that fit a task and come with `SECOND_PACKAGE`, which is not installed."""
    return [found.name for folder, found in baselines(task) if comes_with_second_package(folder, found)]


def submissions_for(
    loaded: LoadedTask,
    names: Sequence[str] | None = None,
    ignore_fields: Sequence[str] = (),
    *,
    trust_code: bool = False,
) -> list[Entry]:
    """Entries to score on a task: those named, or all that it brings itself and all baselines that fit it.

    Args:
        loaded: the task.
        names: what is scored, each as `remainder run --with` takes it.
        ignore_fields: fields of the files of what is named; see `open_submission`.
        trust_code: whether code may be executed; without it, baselines that are code are left out.

    Raises:
        InterpretationError: if there is none of that name.
    """
    wrap = resolve(loaded.task.kind.wrap)
    own: dict[str, Entry] = {name: wrap(thing, name) for name, thing in loaded.interpretations.items()}
    if names:
        return [own.get(name) or _open_beside(name, own, ignore_fields, trust_code) for name in names]
    found = baselines_for(loaded.task, trust_code=trust_code)
    return [*own.values(), *(submission.fetched() for submission in found)]


def _open_beside(
    name: str, own: Mapping[str, Entry], ignore_fields: Sequence[str], trust_code: bool
) -> Entry:
    try:
        return open_submission(name, ignore_fields, trust_code=trust_code)
    except InterpretationError as problem:
        if own and not Path(name).exists():
            raise InterpretationError(
                f"there is no submission {name!r}",
                fix=f"name one of the task's own ({', '.join(own)}), a baseline, or a folder",
            ) from problem
        raise


def read_folder(folder: Path) -> Submission:
    """The submission that the `submission.toml` in a folder describes, its files hashed; nothing is fetched.

    Raises:
        InterpretationError: it is malformed, or names files that are not there.
    """
    return _hashed(folder, _described(folder))


def _described(folder: Path) -> Submission:
    return read_description(folder, Submission, folder=folder)


def _hashed(folder: Path, submission: Submission) -> Submission:
    if comes_with_second_package(folder, submission):
        raise InterpretationError(
            f"the files of the baseline {submission.name} are not here: they come with {SECOND_PACKAGE}",
            fix=f"pip install {SECOND_PACKAGE}",
        )
    files = own_hashes(folder, submission.method)
    for source in submission.method.get("sites") or ():
        files |= site_hashes(folder, source, open_site(folder, source).files)
    return submission.model_copy(update={"files": files})


def _own_name(folder: Path) -> str:
    """The name of a folder; for a link, the link's name and not its target's."""
    return Path(os.path.normpath(folder.absolute())).name


def _bare(name: str, method: Method, folder: Path | None = None) -> Submission:
    clean = shortened(re.sub(r"[^a-z0-9._-]", "-", name.lower())).strip("-._") or "sae"
    return Submission(
        name=clean,
        kind=format_of(method.format).kind,
        title=name,
        authors=(),
        licence="unknown",
        method=method,
        folder=folder,
        files={} if folder is None else own_hashes(folder, method),
    )
