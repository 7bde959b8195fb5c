"""Build the source distribution and from it both wheels, and try them from an empty folder (`make dist`).

    python tests/packaging/dist.py FOLDER

1. The source distribution is built from the checkout, and both wheels from what is in it.
2. The first wheel is installed into an environment of its own, by the versions of constraints.txt.
3. Its commands are run from an empty folder.
4. For newer releases of Python, which are not at hand, pip is asked for wheels of the same versions.
5. Baselines that the first wheel lacks are named; the second is installed, and has them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

from environment import SECOND, install, make, said, walk

ROOT = Path(__file__).resolve().parents[2]
LIMITS = {"remainder-*.whl": 25e6, "remainder_baselines-*.whl": 100e6, "remainder-*.tar.gz": 100e6}
"""Bytes that each may have; the index takes files of 100 MB."""


NEWER = ("3.12", "3.13", "3.14")
NO_WHEELS = ("py2store", "transformers-stream-generator")
"""Packages in plain Python, of sae-lens, that the index has as source alone: every Python builds them."""


def build(target: Path, work: Path) -> dict[str, Path]:
    """All three in `target`, by the pattern of their names.

    Raises:
        SystemExit: one is larger than it may be.
    """
    _hatchling(ROOT, target, "sdist")
    (sdist,) = target.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(work, filter="data")
    (source,) = work.glob("remainder-*")
    for part in (source, source / "baselines"):
        _hatchling(part, target, "wheel")
    found = {}
    for pattern, limit in LIMITS.items():
        (found[pattern],) = target.glob(pattern)
        size = found[pattern].stat().st_size
        print(f"{found[pattern].name}: {size / 1e6:.1f} MB", flush=True)
        if size > limit:
            raise SystemExit(f"{found[pattern].name} has more than {limit / 1e6:.0f} MB")
    return found


def _hatchling(source: Path, target: Path, kind: str) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(target), "--target", kind]
    subprocess.run(command, cwd=source, check=True, stdout=subprocess.DEVNULL)


def ask_for_wheels(python: Path, work: Path) -> None:
    """Ask pip for wheels of all that an environment holds, for each newer Python; nothing is installed."""
    freeze = [str(python), "-m", "pip", "list", "--format", "freeze", "--exclude", "remainder"]
    held = subprocess.run(freeze, check=True, capture_output=True, text=True).stdout.splitlines()
    # `+cpu` is a build that is at hand for one Python alone.
    pins = [line.partition("+")[0] for line in held if line.partition("==")[0] not in NO_WHEELS]
    (work / "pins.txt").write_text("\n".join(pins) + "\n")
    for newer in NEWER:
        only = ["--only-binary=:all:", "--python-version", newer, "--target", str(work / "nowhere")]
        install(python, "--dry-run", "--ignore-installed", "--no-deps", *only, "-r", str(work / "pins.txt"))
        print(f"wheels of {len(pins)} packages for Python {newer}: there", flush=True)


def main(target: Path) -> None:
    """Build all into `target`, which is made anew, and try them."""
    target.mkdir(parents=True, exist_ok=True)
    for old in target.iterdir():
        old.unlink()
    with TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "source").mkdir()
        (work / "empty").mkdir()
        first, second, _ = build(target, work / "source").values()
        python = make(work / "venv")
        install(python, "--constraint", str(ROOT / "constraints.txt"), str(first))
        absent = said(python, ["show", SECOND], work / "empty")
        if "pip install remainder-baselines" not in absent:
            raise SystemExit(f"the first wheel names no baseline of the second\n{absent}")
        walk(python, work / "empty")
        ask_for_wheels(python, work)
        install(python, "--no-deps", str(second))
        whole = said(python, ["show", SECOND], work / "empty")
        if "remainder-baselines" in whole:
            raise SystemExit(f"the second wheel is not found\n{whole}")
    print(f"{target}: both wheels and the source distribution are sound", flush=True)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")
    main(Path(sys.argv[1]).absolute())
