"""The findings of `remainder doctor` on an installation.

They are for reports of faults, so that they hold no path of a home, no token and no address with a password.

Sections come one by one, and the one that needs torch comes last, so that a torch that cannot be imported
hides nothing else.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from packaging.requirements import Requirement

from remainder._version import __version__
from remainder.base import plugins
from remainder.base.housekeeping import parts
from remainder.base.memory import free_memory
from remainder.base.messages import message_of
from remainder.base.paths import cache_root, is_checkout, project_root
from remainder.errors import RemainderError
from remainder.record.provenance import git_state, machine_name
from remainder.submission.sandbox.confine import unlimited
from remainder.submission.sandbox.limits import MEMORY, SECONDS

__all__ = ["Section", "examine", "render"]

_OPTIONAL = ("ray", "nnsight", "nnterp", "circuit-tracer", "pytest")
"""Packages that are used where they are there."""
_SETTINGS = (
    "REMAINDER_DEVICE",
    "REMAINDER_HUB_GB",
    MEMORY,
    SECONDS,
    "HF_HUB_OFFLINE",
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
)
_SECRET = ("HF_TOKEN", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "HTTPS_PROXY")
"""Variables whose value is nobody else's: only whether they are set is told."""


@dataclass
class Section:
    """Facts of one kind, and what is at fault, each with how it is mended."""

    title: str
    facts: dict[str, Any] = field(default_factory=dict)
    faults: list[tuple[str, str]] = field(default_factory=list)


def examine() -> Iterator[Section]:
    """All sections, one by one."""
    yield _machine()
    yield _packages()
    yield _cache()
    yield _network()
    yield _plugins()
    yield _compute()


def render(section: Section) -> str:
    """A section as lines of a terminal."""
    width = max(map(len, section.facts), default=0)
    lines = [section.title, *(f"  {name:<{width}}  {_word(value)}" for name, value in section.facts.items())]
    if not section.facts and not section.faults:
        lines.append("  none")
    lines += [f"  ✗ {what}\n    To mend it: {fix}" for what, fix in section.faults]
    return "\n".join(lines)


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def _machine() -> Section:
    """Versions of the package, Python and system."""
    found = Section("machine")
    state = git_state(project_root())
    commit = "" if state is None else f", commit {state.commit[:12]}{' with changes' * state.dirty}"
    found.facts = {
        "remainder": f"{__version__}, {'a checkout' if is_checkout() else 'installed'}{commit}",
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": machine_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory free": f"{free_memory() / 1e9:.1f} GB",
        "not limited with --trust-code": unlimited(),
    }
    for name, file in (("tasks", "*/*/task.toml"), ("baselines", "*/submission.toml")):
        count = len([*(project_root() / name).glob(file)])
        found.facts[name] = count
        if not count:
            found.faults.append((f"the installation has no {name}", "install the package anew"))
    return found


def _packages() -> Section:
    """Packages that are required, those that may be used, and what is missing or too old."""
    found = Section("packages")
    try:
        required = [Requirement(line) for line in metadata.requires("remainder") or ()]
    except metadata.PackageNotFoundError:
        fix = "pip install -e ."
        found.faults.append(("remainder is not installed: bounds of packages were not checked", fix))
        required = []
    for one in required:
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        version = _version(one.name)
        found.facts[one.name] = version or "missing"
        if version is None:
            found.faults.append((f"{one.name} is missing", f"pip install '{one}'"))
        elif not one.specifier.contains(version, prereleases=True):
            what = f"{one.name} is {version}, and {one.specifier} is needed"
            found.faults.append((what, f"pip install '{one.name}{one.specifier}'"))
    found.facts |= {name: version for name in _OPTIONAL if (version := _version(name))}
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cache() -> Section:
    """The cache: its place, its size, and whether it may be written to."""
    place = cache_root().absolute()
    there = next(path for path in (place, *place.parents) if path.exists())
    found = Section("cache", {"place": _public(place)})
    found.facts |= {part.name: f"{part.bytes / 1e6:,.1f} MB" for part in parts()}
    found.facts["disk free"] = f"{shutil.disk_usage(there).free / 1e9:.1f} GB"
    if not os.access(there, os.W_OK):
        what = f"the cache {_public(place)} cannot be written to"
        found.faults.append((what, "set REMAINDER_CACHE to a folder that you may write to"))
    return found


def _public(path: Path) -> str:
    """A path without the name of whose home it lies in."""
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def _network() -> Section:
    """Settings of hubs and indices; nothing is asked of the network."""
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    found = Section("settings", {"hub": urlsplit(address).hostname or "unreadable"})
    found.facts |= {name: os.environ[name] for name in _SETTINGS if name in os.environ}
    found.facts |= {name: "set" for name in _SECRET if os.environ.get(name)}
    return found


def _plugins() -> Section:
    """Entry points of other packages; imported, as they are when they are asked for, but for methods."""
    found = Section("other packages")
    for group in (plugins.FORMATS, plugins.METHODS, plugins.SUBMISSIONS, plugins.TASKS):
        for one in plugins.registered(group):
            found.facts[f"{group.rpartition('.')[2]} {one.name}"] = f"{one.place}, by {one.package}"
            if group == plugins.METHODS:
                continue  # code that runs where it is trusted, and confined
            try:
                plugins.plugin(group, one.name, RemainderError)
            except RemainderError as problem:
                found.faults.append((problem.what, problem.fix or ""))
    return found


def _compute() -> Section:
    """The torch that is there, and the device that `auto` stands for."""
    found = Section("torch")
    if importlib.util.find_spec("torch") is None:
        found.faults.append(("torch is missing: nothing can be measured", "pip install remainder"))
        return found
    try:
        import torch

        from remainder.measure.precision import has_bfloat16_units
        from remainder.model.device import pick_device
    except Exception as problem:  # whatever a broken installation brings about
        what = f"torch, or what needs it, cannot be imported: {type(problem).__name__}: {message_of(problem)}"
        found.faults.append((what, "install the package anew, in an environment of its own"))
        return found
    cards = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    found.facts = {
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "CUDA": torch.version.cuda or "none",
        "GPUs": cards,
    }
    try:
        device = pick_device("auto")
    except RemainderError as problem:
        found.faults.append((problem.what, problem.fix or ""))
        return found
    found.facts |= {"auto": str(device), "bfloat16 units": has_bfloat16_units(device)}
    return found
