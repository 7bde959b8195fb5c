"""What other packages add through entry points, found by name, and only when that name is asked for."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from remainder.base.messages import message_of
from remainder.errors import RemainderError

__all__ = ["plugin"]


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
    except Exception as problem:  # whatever another package's import brings about
        raise error(
            f"{name!r} is registered in {group} as {matches[0].value}, which cannot be imported: "
            f"{type(problem).__name__}: {message_of(problem)}",
            fix="mend or uninstall the package that registers it",
        ) from problem
