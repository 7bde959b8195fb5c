"""Where things are: the project's own files, and the user's cache."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from platformdirs import user_cache_path

__all__ = ["BENCHMARK", "cache_root", "project_root", "root_of"]

BENCHMARK = "baselines/"
"""How the names of files that come with the benchmark begin, where a submission uses them."""


@cache
def project_root() -> Path:
    """The folder that holds `tasks/` and `baselines/`.

    The checkout when the package is imported from one (or installed editable), else the copy
    bundled with the installed wheel.
    """
    package = Path(__file__).resolve().parent
    checkout = package.parent.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "tasks").is_dir():
        return checkout
    return package / "_bundled"


def cache_root() -> Path:
    """The user's cache: `$REMAINDER_CACHE` if set, else the platform's cache folder. Not created here."""
    override = os.environ.get("REMAINDER_CACHE")
    return Path(override).expanduser() if override else user_cache_path("remainder", appauthor=False)


def root_of(folder: Path, name: str) -> Path:
    """What the name of a submission's file is relative to: its folder, or the benchmark (`baselines/…`)."""
    return project_root() if name.startswith(BENCHMARK) else folder
