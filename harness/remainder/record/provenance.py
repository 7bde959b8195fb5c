"""Provenance of a record: package versions, platform and commit; no paths, no host names."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from remainder._version import __version__
from remainder.base.paths import project_root
from remainder.record.schema import Provenance

__all__ = ["PACKAGES", "GitState", "collect_provenance", "git_state", "machine_name", "package_versions"]

PACKAGES = (
    "numpy",
    "pandas",
    "pydantic",
    "sae-lens",
    "safetensors",
    "torch",
    "transformer-lens",
    "transformers",
)
"""Packages whose versions a record names beside this one's; those not installed are left out."""


class GitState(NamedTuple):
    """The checkout that the package runs from."""

    commit: str
    dirty: bool
    """Whether tracked files differ from the commit, or untracked ones lie about."""


def collect_provenance(
    timings: Mapping[str, float] | None = None,
    *,
    cpu: Mapping[str, float] | None = None,
    tokens_per_second: float | None = None,
    threads: int | None = None,
    tf32: bool | None = None,
) -> Provenance:
    """The provenance of a record made now.

    Args:
        timings: seconds per stage.
        cpu: seconds per stage of all threads together.
        tokens_per_second: scored tokens over the seconds of the evaluation; None where a part of it was found
            finished.
        threads: as torch counts them.
        tf32: on a CUDA device, whether products of float32 may be rounded to TF32.
    """
    state = git_state(project_root())
    return Provenance(
        packages=package_versions(),
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        git_commit=None if state is None else state.commit,
        dirty=None if state is None else state.dirty,
        timestamp=datetime.now(UTC).isoformat(timespec="seconds"),
        timings=dict(timings or {}),
        cpu=None if cpu is None else dict(cpu),
        tokens_per_second=tokens_per_second,
        threads=threads,
        tf32=tf32,
    )


def machine_name() -> str:
    """System, architecture and processor of this machine, for the mark of a second measurement."""
    described = f"{platform.system()} {platform.machine()}"
    processor = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    words = (named or [processor])[0]
    return f"{described}, {words}" if words and words != platform.machine() else described


def package_versions() -> dict[str, str]:
    """Versions of this package and of those of `PACKAGES` that are installed, without importing them."""
    # Its own from the source: a checkout may not be installed, or be newer than its installed metadata.
    versions = {"remainder": __version__}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # a slim installation, e.g. without torch, can still read and write records
    return versions


def git_state(root: Path) -> GitState | None:
    """Commit of the checkout at `root`; None if that is not a checkout, has no commit, or git is missing."""
    top = _git(root, "rev-parse", "--show-toplevel")
    # An installed wheel may lie inside somebody else's repository, whose commit says nothing about us.
    if top is None or Path(top).resolve() != root.resolve():
        return None
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    changes = _git(root, "status", "--porcelain")
    if commit is None or changes is None:
        return None
    return GitState(commit=commit, dirty=bool(changes))


def added_on(path: Path) -> str | None:
    """Day of the commit that brought a file, as 2026-11-29; None where the whole history is not at hand.

    So it is None in an installed package, in a shallow clone, and before the file is committed.
    """
    if _git(path.parent, "rev-parse", "--is-shallow-repository") != "false":
        return None
    days = _git(path.parent, "log", "--diff-filter=A", "--format=%cs", "--", path.name)
    return days.splitlines()[-1] if days else None


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30, check=False
        )
    except (FileNotFoundError, NotADirectoryError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
