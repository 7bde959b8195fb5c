"""Build hook of both wheels: which of the project's data each of them carries.

The data lie outside the package in the checkout. `remainder.base.paths` finds them there in an editable
install, and in these folders of installed wheels:

1. `remainder` has the tasks, the frozen lists of records, `leaderboard.json`, CITATION.cff and the baselines,
   in `remainder/_bundled/`. Of a baseline whose files take more than `largest` bytes, and which is not among
   `whole`, it has the `submission.toml` alone.
2. `remainder-baselines` (baselines/pyproject.toml) has those baselines whole, in
   `remainder_baselines/baselines/`.

`largest` and `whole` stand in pyproject.toml, where this hook is named.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = Path(__file__).resolve().parent
BUNDLED = ("tasks", "leaderboard/snapshots", "leaderboard/leaderboard.json", "CITATION.cff")
DESCRIPTION = "submission.toml"


class BundleHook(BuildHookInterface):  # type: ignore[type-arg]  # its parameter is the builder's own config class
    """Adds data to every wheel but an editable one."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it builds; `version` is "standard" or "editable"."""
        if version != "editable":
            chosen = second_wheel() if self.config.get("second") else first_wheel()
            build_data["force_include"] |= {str(HERE / name): place for name, place in chosen.items()}


def first_wheel() -> dict[str, str]:
    """Files and folders of the checkout that `remainder` carries, and the place of each in the wheel."""
    large = set(large_baselines())
    names = [name for name in BUNDLED if (HERE / name).exists()]
    for path in sorted((HERE / "baselines").iterdir()):
        name = f"baselines/{path.name}"
        if path.name in large:
            names.append(f"{name}/{DESCRIPTION}")
        elif (path / DESCRIPTION).is_file():
            names.append(name)
    return {name: f"remainder/_bundled/{name}" for name in names}


def second_wheel() -> dict[str, str]:
    """The same of `remainder-baselines`."""
    names = [f"baselines/{name}" for name in large_baselines()]
    return {name: f"remainder_baselines/{name}" for name in (*names, "LICENSE")}


def large_baselines() -> list[str]:
    """Names of the baselines of which the first wheel has the description alone."""
    project = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))
    config = project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]
    folders = sorted(path.parent for path in (HERE / "baselines").glob(f"*/{DESCRIPTION}"))
    return [
        folder.name
        for folder in folders
        if folder.name not in config["whole"] and _bytes(folder) > config["largest"]
    ]


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
