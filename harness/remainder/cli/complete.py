"""Names that a shell completes; found without importing what is slow to load."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["parts_of_cache", "submissions", "suites", "tasks"]


def tasks(incomplete: str) -> list[str]:
    """Ids of tasks, of other packages too."""
    from remainder.task.listing import task_names

    return _beginning(task_names(), incomplete)


def suites(incomplete: str) -> list[str]:
    """Names of suites."""
    from remainder.task.listing import task_names

    return _beginning(dict.fromkeys(name.split("/")[0] for name in task_names()), incomplete)


def submissions(incomplete: str) -> list[str]:
    """Names of baselines and of submissions that other packages register."""
    from remainder.base.paths import baseline_folders
    from remainder.base.plugins import SUBMISSIONS, registered

    own = list(baseline_folders())
    return _beginning([*own, *(one.name for one in registered(SUBMISSIONS))], incomplete)


def parts_of_cache(incomplete: str) -> list[str]:
    """Names of the parts of the cache."""
    from remainder.base.housekeeping import PARTS

    return _beginning(PARTS, incomplete)


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
