"""Fit this codebook by k-means on the `fit` split, and write `codebook.safetensors` and `train.log`.

    python baselines/digits-codebook-64/train.py

Seconds. scikit-learn's k-means (k-means++, 10 starts, seed 0); centroids are stored in float32.
"""

from __future__ import annotations

import json
from pathlib import Path

import sklearn
import torch
from safetensors.torch import save_file
from sklearn.cluster import KMeans

from remainder.loading.open import open_task

TASK = "tiny/digits"
SEED, ENTRIES = 0, 64
HERE = Path(__file__).resolve().parent


def fvu(rows: torch.Tensor, centroids: torch.Tensor) -> float:
    """Fraction of variance unexplained by the nearest centroid."""
    left = torch.cdist(rows, centroids).min(-1).values.square().sum()
    return float(left / (rows - rows.mean(0)).square().sum())


def main() -> None:
    task = open_task(TASK)
    rows = task.rows("fit")
    fitted = KMeans(ENTRIES, n_init=10, random_state=SEED).fit(rows.double().numpy())
    centroids = torch.from_numpy(fitted.cluster_centers_).float()
    save_file({"centroids": centroids}, HERE / "codebook.safetensors")
    (HERE / "codebook.safetensors").chmod(0o644)
    summary = {
        "task": TASK,
        "seed": SEED,
        "entries": ENTRIES,
        "rows": len(rows),
        "iterations": int(fitted.n_iter_),
        "smallest_cell": int(min((fitted.labels_ == entry).sum() for entry in range(ENTRIES))),
        "fvu_fit": round(fvu(rows, centroids), 5),
        "fvu_evaluation": round(fvu(task.rows("evaluation"), centroids), 5),
        "scikit-learn": sklearn.__version__,
        "torch": torch.__version__,
    }
    (HERE / "train.log").write_text(json.dumps(summary) + "\n", encoding="utf-8")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
