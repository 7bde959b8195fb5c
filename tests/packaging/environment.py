"""An environment with nothing but the built package, and a walk through its commands from an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["SECOND", "install", "make", "said", "walk"]

# Nothing of this checkout or of the environment that runs this may help.
_FOREIGN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "REMAINDER_DEVICE")
SECOND = "smollm2-135m/resid-15"  # a task that has baselines of either wheel
_WALK = (
    (["--help"], "board"),
    (["tasks", "--suite", "tiny"], "tiny/digits"),
    (["run", "controls/gaussian-equivalence", "--rungs", "raw"], "identity"),
    (["run", "tiny/modular-addition", "--rungs", "raw", "--with", "modular-addition-topk-sae"], "topk-sae"),
    (["verify", "results"], "0 at fault"),
    (["show", "results"], "gaussian-equivalence"),
    (["compare", "controls/gaussian-equivalence/2/linear", "controls/gaussian-equivalence/2/identity"], "Δ"),
    (["explain", "controls/gaussian-equivalence/2/linear", "--save", "explained.png"], "Brackets"),
    (["export", "results", "--format", "parquet"], "4 records"),
    (["board", "build", "--results", "results"], "4 records of 2 tasks"),
    (["cite", "results/controls/gaussian-equivalence/2/linear"], "@misc"),
    (["cite", "2026.12"], "Merkle root"),
    (["show", "tiny/digits"], "baselines"),
    (["show", "feature-circuit"], "On the board, snapshot"),
)
"""Commands, and what each prints."""


def make(folder: Path) -> Path:
    """A virtual environment in a folder that is not there yet; gives its Python."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    return folder / "bin" / "python"


def install(python: Path, *words: str) -> None:
    """`pip install` with these words."""
    command = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", *words]
    subprocess.run(command, check=True, env=_clean())


def said(python: Path, words: list[str], where: Path) -> str:
    """What a command prints on both channels, with one space for all space between words.

    Raises:
        SystemExit: it fails.
    """
    done = subprocess.run(
        [str(python.with_name("remainder")), *words],
        cwd=where,
        env=_clean(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"remainder {' '.join(words)}: exit code {done.returncode}\n{done.stdout}")
    return " ".join(done.stdout.split())


def walk(python: Path, where: Path) -> None:
    """Run the commands from an empty folder, and hold each to what it must print.

    Raises:
        SystemExit: one fails, or prints something else.
    """
    assert not any(where.iterdir())
    for words, expected in _WALK:
        text = said(python, words, where)
        if expected not in text:
            raise SystemExit(f"remainder {' '.join(words)}: says no {expected!r}\n{text}")
        print(f"  remainder {' '.join(words)}", flush=True)


def _clean() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    return kept | {"COLUMNS": "80"}
