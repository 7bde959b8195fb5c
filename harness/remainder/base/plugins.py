"""Objects that other packages register as entry points, looked up only when their name is asked for."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from remainder.base.messages import message_of
from remainder.errors import RemainderError

__all__ = ["plugin", "plugin_folder"]


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
        places = " and ".join(sorted(match.value for match in matches))
        raise error(f"{name!r} is registered twice in {group}: {places}", fix="uninstall one of the packages")
    if not matches:
        return None
    try:
        return matches[0].load()
    except (Exception, SystemExit) as problem:  # whatever another package's import brings about
        raise error(
            f"{name!r} is registered in {group} as {matches[0].value}, which cannot be imported: "
            f"{type(problem).__name__}: {message_of(problem)}",
            fix="mend or uninstall the package that registers it",
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
