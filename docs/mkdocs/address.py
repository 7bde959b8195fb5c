"""The address of the repository: one line of pyproject.toml, or `ADDRESS` where that is set.

python docs/mkdocs/address.py    # fails while the address is the placeholder
"""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACEHOLDER = ".invalid/"
"""A name that no machine on the net can have (RFC 2606)."""


def address() -> str:
    """Where the repository lies, without a slash at the end."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    stated: str = project["urls"]["Repository"]
    return (os.environ.get("ADDRESS") or stated).rstrip("/")


def fault() -> str | None:
    """What is wrong with the address, and how to mend it; None if nothing is."""
    if PLACEHOLDER not in f"{address()}/":
        return None
    return (
        f"the address of the repository is a placeholder, {address()}\n"
        "  fix: set `Repository` below [project.urls] in pyproject.toml, or ADDRESS=https://… for one command"
    )


if __name__ == "__main__":
    sys.exit(fault())
