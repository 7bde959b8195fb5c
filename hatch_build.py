"""Build hook: a wheel carries the tasks, the baselines and the published results, archives left out.

They live outside the package in the checkout. `remainder.base.paths.project_root()` finds them there in an
editable install, and in `remainder/_bundled/` of an installed wheel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BUNDLED = (
    "tasks",
    "baselines",
    "leaderboard/results",
    "leaderboard/snapshots",
    "leaderboard/verifications",
)


class BundleHook(BuildHookInterface):  # type: ignore[type-arg]  # its parameter is the builder's own config class
    """Adds the folders of `BUNDLED` that exist to every wheel but an editable one."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it builds; `version` is "standard" or "editable"."""
        if version == "editable":
            return
        for folder in BUNDLED:
            if (Path(self.root) / folder).is_dir():
                build_data["force_include"][folder] = f"remainder/_bundled/{folder}"
