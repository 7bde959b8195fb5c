"""The address of the repository: one line of pyproject.toml, which installed metadata repeat."""

from __future__ import annotations

import os
import tomllib
from importlib.metadata import PackageNotFoundError, metadata

from remainder.base.paths import is_checkout, project_root

__all__ = ["PLACEHOLDER", "repository"]

PLACEHOLDER = ".invalid/"
"""A name that no machine on the net can have (RFC 2606): the address is not known yet."""
_LABEL = "Repository"


def repository() -> str | None:
    """The address of the repository, without a slash at the end; None while that is not known.

    `ADDRESS` in the environment takes the place of what is written down.
    """
    found = (os.environ.get("ADDRESS") or _written() or "").rstrip("/")
    return None if not found or PLACEHOLDER in f"{found}/" else found


def _written() -> str | None:
    if is_checkout():
        text = (project_root() / "pyproject.toml").read_text(encoding="utf-8")
        urls: dict[str, str] = tomllib.loads(text)["project"]["urls"]
        return urls.get(_LABEL)
    try:
        lines = metadata("remainder").get_all("Project-URL") or []
    except PackageNotFoundError:
        return None
    return next((line.partition(", ")[2] for line in lines if line.startswith(f"{_LABEL}, ")), None)
