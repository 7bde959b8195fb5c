"""`python -m remainder.loading.windows [TASK|SUITE ...]` writes windows of tasks into `tasks/windows.json`.

See `remainder.record.windows`. Without a task those of all that can be opened here are written; a task that
not everybody can open (its model lies on a hub, or is under terms) keeps what the file has.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from remainder.errors import AssetError
from remainder.loading.open import open_task
from remainder.record.json import write_atomically
from remainder.record.windows import windows_file, windows_hash
from remainder.task.spec import list_tasks, load_task

__all__ = ["main", "tier_hashes"]


def tier_hashes(name: str) -> dict[str, str]:
    """The hash of the scored windows of each tier of a task; none, if its kind does not say which those are.

    Raises:
        RemainderError: it cannot be opened.
    """
    loaded = open_task(name, device="cpu")
    tiers = loaded.task.tiers
    scored = {tier: loaded.scored_windows(tiers[tier].evaluation_windows) for tier in sorted(tiers)}
    return {tier: windows_hash(windows) for tier, windows in scored.items() if windows is not None}


def main(names: Sequence[str]) -> None:
    """Write the hashes of these tasks and suites, or of all, and say so."""
    path = windows_file()
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    known = list_tasks()
    chosen = [task for name in names for task in ([name] if name in known else list_tasks(name))]
    for name in chosen or known:
        if not load_task(name).model.is_open:
            print(f"{name}: left out, its model lies on a hub or is under terms", file=sys.stderr)
            continue
        try:
            content[name] = tier_hashes(name)
        except AssetError as problem:
            print(f"{name}: left out, {problem.what}", file=sys.stderr)
            continue
        write_atomically(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())
        print(name)


if __name__ == "__main__":
    main(sys.argv[1:])
