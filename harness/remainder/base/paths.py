"""Locations: the project's own files, and the user's cache."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from remainder.errors import AssetError

__all__ = [
    "BENCHMARK",
    "SECOND_PACKAGE",
    "baseline",
    "baseline_folders",
    "cache_root",
    "gigabytes",
    "is_checkout",
    "is_within",
    "machine_paths",
    "positive",
    "project_root",
    "root_of",
    "texts",
]

BENCHMARK = "baselines/"
"""Prefix by which a submission names files that come with the benchmark."""

SECOND_PACKAGE = "remainder-baselines"
"""The package with the baselines that are too large for this one, which has their descriptions alone."""

_DESCRIPTION = "submission.toml"
_ABSOLUTE = re.compile(r"""(?:^|[\s'"=(\[,])(?:/[\w.@+~-]+/[\w.@+~-]|~/|[A-Za-z]:\\)""")


@cache
def project_root() -> Path:
    """The folder that holds `tasks/` and `baselines/`.

    The checkout when the package is imported from one (or installed editable), else the copy
    bundled with the installed wheel.
    """
    package = Path(__file__).resolve().parent.parent
    checkout = package.parent.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "tasks").is_dir():
        return checkout
    return package / "_bundled"


def cache_root() -> Path:
    """The user's cache: `$REMAINDER_CACHE` if set, else the platform's cache folder. Not created here."""
    override = os.environ.get("REMAINDER_CACHE")
    return Path(override).expanduser() if override else user_cache_path("remainder", appauthor=False)


def gigabytes(variable: str, default: float = math.inf) -> float:
    """Bytes that an environment variable states in gigabytes.

    Raises:
        AssetError: if it is not a number above 0.
    """
    return positive(variable, default, "gigabytes") * 1e9


def positive(variable: str, default: float, unit: str = "seconds") -> float:
    """The number that an environment variable states, in its unit.

    Raises:
        AssetError: if it is not a number above 0.
    """
    text = os.environ.get(variable)
    if text is None:
        return default
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not found > 0:
        raise AssetError(f"{variable} is {text!r}, not a number above 0", fix=f"give {unit}")
    return found


@cache
def _second_root() -> Path | None:
    """The folder in which `SECOND_PACKAGE` has its `baselines/`; None if it is not installed."""
    spec = find_spec(SECOND_PACKAGE.replace("-", "_"))
    places = None if spec is None else spec.submodule_search_locations
    return Path(next(iter(places))) if places else None


def _roots() -> tuple[Path, ...]:
    """Folders that hold `baselines/`: the project's, and before it, if that is an installed package, the one
    of the second package."""
    second = None if is_checkout() else _second_root()
    return (project_root(),) if second is None else (second, project_root())


def root_of(folder: Path, name: str) -> Path:
    """The root of a file name in a submission: its own folder, or the project's for `baselines/…`."""
    if not name.startswith(BENCHMARK):
        return folder
    own = "/".join(name.split("/")[:2])
    return next((root for root in _roots() if (root / own / _DESCRIPTION).is_file()), project_root())


def baseline(name: str) -> Path:
    """The folder of the baseline `name`, whether there is one or not."""
    place = f"{BENCHMARK}{name}"
    return root_of(project_root(), place) / place


def baseline_folders() -> dict[str, Path]:
    """The folders of all baselines, by name and in the order of names."""
    files = (project_root() / BENCHMARK).glob(f"*/{_DESCRIPTION}")
    return {name: baseline(name) for name in sorted(path.parent.name for path in files)}


def is_checkout() -> bool:
    """Whether the project's own files come from a checkout rather than from an installed package."""
    return (project_root() / "pyproject.toml").is_file()


def is_within(name: str) -> bool:
    """Whether a relative name stays within its folder, on any platform."""
    parts = name.replace("\\", "/").split("/")
    return bool(name.strip()) and parts[0] not in ("", "~") and ".." not in parts and ":" not in parts[0]


def texts(content: Any, place: str = "") -> Iterator[tuple[str, str, bool]]:
    """Every text in nested dicts and lists with its place, and whether it is a name."""
    if isinstance(content, Mapping):
        for name, item in content.items():
            yield place, name, True
            yield from texts(item, f"{place}.{name}" if place else name)
    elif isinstance(content, (list, tuple)):
        for index, item in enumerate(content):
            yield from texts(item, f"{place}[{index}]")
    elif isinstance(content, str):
        yield place, content, False


def machine_paths(content: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Texts in nested dicts and lists that hold a path of this machine, each with its place.

    Records are public, so neither their keys nor their values may hold one.
    """
    for where, text, is_name in texts(content, place):
        if _ABSOLUTE.search(text):
            yield f"a name in {where}" if is_name else where, text
