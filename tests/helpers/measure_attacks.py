"""Measure bits, coded KL and efficiency of every attack again, and write them into docs/attacks.csv.

    python tests/helpers/measure_attacks.py

Takes minutes. Columns of protocol 1 (`…_before`) and those of the sealed text stay as they are; tests hold
a few of the figures, and the page's table, to the file.
"""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

from attacks import ATTACKS, Known, write

from remainder.base.paths import project_root
from remainder.loading.open import at_site, open_task
from remainder.measure.plan import plan
from remainder.submission.open import open_submission


def main() -> None:
    path = project_root() / "docs" / "attacks.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    known = Known(at_site(open_task("tiny/wiki", device="cpu")))
    chosen = plan(known.loaded.task, "quick", rungs=("coded",))
    for row in rows:
        name = row["name"]
        with tempfile.TemporaryDirectory() as folder:
            at = write(name, known, Path(folder)) if name in ATTACKS else name
            record, _ = known.loaded.measure(open_submission(at), chosen)
        point = None if record.metrics.coding is None else record.metrics.coding.points["coded"]
        numbers = {
            "bits": record.complexity.bits_per_token.value,
            "coded": None if point is None else point.kl.value,
            "efficiency": None if point is None else point.efficiency.value,
        }
        row |= {key: "" if value is None else f"{value:.4g}" for key, value in numbers.items()}
        print(name, numbers, flush=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
