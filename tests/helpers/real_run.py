"""Whole runs of the command in processes of their own, on a tiny task, and what is left in their folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tiny import write_task

from remainder.base.paths import project_root
from remainder.record.store import read_record, values_path
from remainder.record.turns import RUNS

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(project_root() / "harness"),
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "COLUMNS": "80",
    "RAY_worker_niceness": "0",  # else whatever the machine does besides would go first
}


class Place:
    """A folder with a tiny task, its text and model in a cache, and submissions of several ranks."""

    def __init__(self, folder: Path, rows: int) -> None:
        self.folder = folder
        self.more: dict[str, str] = {}
        """Further variables of the runs."""
        before = os.environ.get("REMAINDER_CACHE")
        os.environ["REMAINDER_CACHE"] = str(folder / "cache")
        try:
            self.task = write_task(folder / "tasks")
        finally:
            os.environ.pop("REMAINDER_CACHE")
            if before is not None:
                os.environ["REMAINDER_CACHE"] = before
        self.submissions = [self._submission(rank) for rank in range(1, rows + 1)]

    def _submission(self, rank: int) -> Path:
        place = self.folder / "submissions" / f"rank-{rank}"
        place.mkdir(parents=True)
        (place / "submission.toml").write_text(
            f'name = "rank-{rank}"\nkind = "reconstruction"\ntitle = "A projection"\nauthors = []\n'
            f'licence = "MIT"\n\n[method]\nformat = "pca"\nrank = {rank}\n'
        )
        return place

    @property
    def environment(self) -> dict[str, str]:
        return {**ENVIRONMENT, "REMAINDER_CACHE": str(self.folder / "cache"), **self.more}

    def arguments(self, out: Path, *more: str) -> list[str]:
        """What follows `remainder` on the command line."""
        named = [word for place in self.submissions for word in ("--with", str(place))]
        return ["run", str(self.task), *named, "--out", str(out), *more]

    def start(self, out: Path, *more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "remainder", *self.arguments(out, *more)],
            env=self.environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, out: Path, *more: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        with self.start(out, *more) as child:
            shown, said = child.communicate(timeout=300)
        return child.returncode, shown, said


def results(out: Path) -> dict[str, str]:
    """The result of each row, by the submission's name; each has one record, and nothing lies beside them."""
    found: dict[str, str] = {}
    records = [path for path in out.rglob("*.json") if RUNS not in path.parts]
    for path in records:
        record = read_record(path).record
        assert record.submission.name not in found, f"two records of {record.submission.name}"
        found[record.submission.name] = record.result_id
    files = {path for path in out.rglob("*") if path.is_file() and RUNS not in path.parts}
    assert files == {file for path in records for file in (path, values_path(path))}
    return found


def events(out: Path) -> list[dict[str, object]]:
    """What the journal of the one run says, but for the list of cells."""
    (journal,) = (out / RUNS).glob("*/journal.jsonl")
    return [json.loads(line) for line in journal.read_text().split("\n")[1:-1]]


def numbers(found: Sequence[dict[str, object]], event: str) -> list[int]:
    """Places of the cells that an event was of, sorted."""
    return sorted(number for line in found if line["event"] == event for number in line["cells"])  # type: ignore[attr-defined]
