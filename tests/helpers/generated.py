"""Files that are made from all records, on the main branch alone; see .github/workflows/board.yml."""

from __future__ import annotations

import os
import subprocess

import pytest

from remainder.base.paths import project_root

__all__ = ["made_on_main"]


def _elsewhere() -> str:
    """Why they need not be current here; empty where they must be: on main, and where there is no branch."""
    if os.environ.get("GITHUB_ACTIONS") == "true":
        return "on GitHub the workflow Board makes them, after records have come to the main branch"
    command = ["git", "-C", str(project_root()), "symbolic-ref", "--quiet", "--short", "HEAD"]
    try:
        branch = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        branch = ""
    return "" if branch in ("", "main") else f"branch {branch}: they are made on main"


made_on_main = pytest.mark.skipif(bool(_elsewhere()), reason=_elsewhere())
"""Marks a test that compares such files with what the records give."""
