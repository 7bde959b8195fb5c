"""Train this baseline as `modular-addition-topk-sae` is, but with 6 latents.

python baselines/modular-addition-topk-sae-6/train.py
"""

from __future__ import annotations

from pathlib import Path

from remainder.task.script import load_script

HERE = Path(__file__).resolve().parent

if __name__ == "__main__":
    load_script(HERE.parent / "modular-addition-topk-sae" / "train.py").train(HERE, 6)
