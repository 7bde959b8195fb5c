"""Objects that other packages register as entry points, looked up only when their name is asked for."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, NamedTuple

from remainder.base.messages import message_of
from remainder.errors import RemainderError

__all__ = [
    "FORMATS",
    "METHODS",
    "SUBMISSIONS",
    "TASKS",
    "Registered",
    "plugin",
    "plugin_folder",
    "registered",
]

FORMATS, METHODS = "remainder.formats", "remainder.methods"
"""Groups of entry points whose objects are a `Format`, and a function that builds a method."""
SUBMISSIONS, TASKS = "remainder.submissions", "remainder.tasks"
"""Groups of entry points whose objects are paths of folders."""


class Registered(NamedTuple):
    """An entry point, as the files of an installed package state it; nothing is imported."""

    name: str
    place: str
    """The `module:object` that it stands for."""
    package: str
    """The package that registers it, with its version."""


def registered(group: str) -> list[Registered]:
    """All that installed packages register in a group, by name; nothing of theirs is imported."""
    return sorted({_stated(point) for point in entry_points(group=group)})


def _stated(point: EntryPoint) -> Registered:
    package = point.dist
    named = "a package without a name" if package is None else f"{package.name} {package.version}"
    return Registered(point.name, point.value, named)


def plugin(group: str, name: str, error: type[RemainderError]) -> Any | None:
    """The object that an installed package registers in `group` under `name`; None if no package does.

    Args:
        group: of entry points, such as `remainder.formats`.
        name: of the entry point.
        error: what is raised.

    Raises:
        RemainderError: of class `error`: two packages register that name, or the object cannot be imported.
    """
    matches = list(entry_points(group=group, name=name))
    if len({match.value for match in matches}) > 1:
        places = " and ".join(f"{one.place} by {one.package}" for one in sorted(map(_stated, matches)))
        raise error(f"{name!r} is registered twice in {group}: {places}", fix="uninstall one of the packages")
    if not matches:
        return None
    try:
        return matches[0].load()
    except (Exception, SystemExit) as problem:  # whatever another package's import brings about
        stated = _stated(matches[0])
        raise error(
            f"the package {stated.package} registers {name!r} in {group} as {stated.place}, which cannot be "
            f"imported: {type(problem).__name__}: {message_of(problem)}",
            fix=f"mend or uninstall {stated.package.split()[0]}",
        ) from problem


def plugin_folder(group: str, name: str, file: str, error: type[RemainderError]) -> Path | None:
    """The folder that an installed package registers, as a path, under `name`; None if no package does.

    Args:
        group: of entry points.
        name: of the entry point.
        file: that the folder holds.
        error: what is raised.

    Raises:
        RemainderError: of class `error`: see `plugin`; or it is not the path of such a folder.
    """
    registered = plugin(group, name, error)
    if registered is None:
        return None
    if not isinstance(registered, (str, Path)) or not (Path(registered) / file).is_file():
        raise error(
            f"{name!r} is registered in {group} as {registered!r:.200}, which is no folder with a {file}",
            fix="register the path of the folder",
        )
    return Path(registered)
