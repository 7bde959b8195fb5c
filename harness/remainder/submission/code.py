"""Submissions that are code: the format `code`, whose `entry` names a function that makes the method.

    [method]
    entry = "method.py:build"        # a file in the folder; or the name of an entry point, "my-method"

`build(folder, site)` gives an object with `encode` and `decode`. Nothing of it is executed unless whoever
scores it trusts it, and then in a process of its own (`remainder.submission.sandbox`). All files of its
folder are hashed and handed to that process, which can read no other; of an installed package, all files of
its distribution are hashed.
"""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from remainder.base.cache import sha256_file
from remainder.base.plugins import METHODS
from remainder.errors import InterpretationError
from remainder.formats.places import Loaded
from remainder.interpretation.protocol import FitMoments
from remainder.interpretation.references import Identity
from remainder.interpretation.site_info import SiteInfo
from remainder.submission.description import DESCRIPTION, readable
from remainder.submission.method import Method
from remainder.submission.sandbox.limits import current_limits
from remainder.submission.sandbox.method import OWN, PACKAGE, open_method
from remainder.task.spec import ANYWHERE, Task

if TYPE_CHECKING:
    from remainder.submission.submission import Submission

__all__ = ["elsewhere", "files", "make", "require", "require_trust"]

_OF_INSTALLERS = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"}
"""Files that say how and where a package was installed."""


def files(folder: Path) -> list[Path]:
    """All files of a folder that its code can read: without its submission.toml, whose settings are hashed as
    such, and what is hidden or a cache.

    Raises:
        InterpretationError: one is a link, or no file.
    """
    found = readable(folder)
    for path in found:
        if path.is_symlink() or not path.is_file():
            raise InterpretationError(f"{path} is a link or no file", fix="put plain files into the folder")
    return found


def require(path: Path) -> None:
    """Nothing is asked of a file: it may be code, weights, or whatever the code reads."""


def elsewhere(folder: Path, method: Method) -> dict[str, str]:
    """SHA-256 of the files of an installed package that is executed; none for an entry in the folder.

    Raises:
        InterpretationError: there is no such file or entry point, or its package's files are not known.
    """
    entry: str = method.get("entry")
    file, colon, _ = entry.partition(":")
    if colon:
        if not (folder / file).is_file():
            raise InterpretationError(
                f"{folder / DESCRIPTION}: method.entry: there is no {file} in {folder}",
                fix='name a file of the folder, and a function in it: entry = "method.py:build"',
            )
        return {}
    point = _point(entry, folder)
    return {f"{_label(point)}/{name}": sha256_file(path) for name, path in _package(point).items()}


def _label(point: EntryPoint) -> str:
    """The name and version of the package that registers an entry point."""
    assert point.dist is not None
    return f"{point.dist.name}-{point.dist.version}"


def _package(point: EntryPoint) -> dict[str, Path]:
    """The files of the package that registers an entry point, by their names below where it is installed.

    Raises:
        InterpretationError: the module of the entry point is not among them.
    """
    assert point.dist is not None
    found = {}
    for each in point.dist.files or ():
        path = Path(str(each.locate()))
        is_content = each.suffix != ".pyc" and each.name not in _OF_INSTALLERS and ".." not in each.parts
        if is_content and path.is_file():
            found[each.as_posix()] = path
    top = re.split(r"[.:]", point.value)[0]
    if not any(name.split("/")[0] in (top, f"{top}.py") for name in found):
        raise InterpretationError(
            f"{point.name} is registered by {point.dist.name}, and {top} is not among that package's files",
            fix="install it as a wheel, and not in editable mode: what is executed has to be hashed",
        )
    return found


def _point(name: str, folder: Path) -> EntryPoint:
    points = list({point.value: point for point in entry_points(group=METHODS, name=name)}.values())
    if len(points) == 1 and points[0].dist is not None:
        return points[0]
    said = f"{len(points)} packages register" if points else "no installed package registers"
    raise InterpretationError(
        f"{folder / DESCRIPTION}: method.entry: {said} {name!r} in {METHODS}",
        fix='install the package, or name a file of the folder: entry = "method.py:build"',
    )


def require_trust(submission: Submission) -> None:
    """Refuse to execute what nobody trusts.

    Raises:
        InterpretationError: the submission is code, and was opened without trust.
    """
    if not submission.format.runs_code or submission.is_trusted:
        return
    entry, where = submission.method.get("entry"), submission.folder
    if ":" not in entry:
        what = f"{_point(entry, where).value} of an installed package" if where else entry
    else:
        what = f"{where}/{entry.partition(':')[0]}" if where else entry
    raise InterpretationError(
        f"{submission.name} is code: to score it {what} is executed on this machine",
        fix="read it, and if you trust it add --trust-code (in Python trust_code=True); it then runs in a "
        "process of its own, confined",
    )


def make(submission: Submission, task: Task, fit: FitMoments) -> Loaded:
    """The method that the code of a submission builds for the task's site.

    Raises:
        InterpretationError: it is not trusted, does not start, or gives no method.
    """
    require_trust(submission)
    site = task.site
    if site == ANYWHERE:  # a draft: code does not say where it was made
        return Loaded(Identity(), "in")
    assert submission.folder is not None
    entry: str = submission.method.get("entry")
    places = {file: (f"{OWN}/{file}", submission.folder / file) for file in submission.files}
    if ":" not in entry:
        point = _point(entry, submission.folder)
        entry = point.value
        for name, path in _package(point).items():
            places[f"{_label(point)}/{name}"] = (f"{PACKAGE}/{name}", path)
    copied = {where: (path, submission.files.get(file)) for file, (where, path) in places.items()}
    told = SiteInfo.of(task)
    return Loaded(open_method(submission.name, copied, entry, told, current_limits()), "in")
