"""Find the directions that carry the rule, and write `subspace.safetensors` and `train.log`.

    python baselines/rule-and-noise-rule-3/train.py

Seconds. Steps:
1. Regress the activations of `fit` on the rule's own scores T u of the same examples (least squares, both
   centred): h − E h ≈ B (T u − E T u), B of rank 3. The labels, right or wrong, play no part.
2. The subspace is the span of B's columns, as orthonormal rows; the mean is that of the activations.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from remainder.base.paths import project_root
from remainder.loading.open import open_task
from remainder.task.script import load_script

TASK, RANK = "tiny/rule-and-noise", 3
HERE = Path(__file__).resolve().parent


def main() -> None:
    task = open_task(TASK)
    data = load_script(project_root() / "tasks" / TASK / "build.py").data()
    scores = torch.from_numpy(data.scores["fit"]).flatten(0, 1)
    rows = task.rows("fit").double()
    mean = rows.mean(0)
    slopes = torch.linalg.lstsq(scores - scores.mean(0), rows - mean, driver="gelsd").solution
    _, strengths, directions = torch.linalg.svd(slopes, full_matrices=False)
    directions = directions[:RANK]
    arrays = {"directions": directions.float().contiguous(), "mean": mean.float()}
    save_file(arrays, HERE / "subspace.safetensors")
    (HERE / "subspace.safetensors").chmod(0o644)
    explained = (scores - scores.mean(0)) @ slopes
    kept = (rows - mean) @ directions.T
    summary = {
        "task": TASK,
        "rows": len(rows),
        "strengths": [round(float(value), 5) for value in strengths],
        "variance_explained_by_the_scores": round(
            float(explained.square().sum() / (rows - mean).square().sum()), 5
        ),
        "variance_in_the_subspace": round(float(kept.square().sum() / (rows - mean).square().sum()), 5),
        "torch": torch.__version__,
    }
    (HERE / "train.log").write_text(json.dumps(summary) + "\n", encoding="utf-8")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
