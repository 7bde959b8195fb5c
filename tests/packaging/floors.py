"""Try the oldest dependencies that pyproject.toml allows (`make floors`).

1. uv, in an environment of its own, resolves each direct dependency to the lowest version that is allowed, on
   the oldest Python; torch is pinned as in constraints.txt, since other builds of it are gigabytes.
2. Each direct dependency must come out at the very bound that pyproject.toml states: a lower one was never
   tried.
3. The wheel is installed by these versions, and its commands are run from an empty folder.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory

from environment import install, make, walk
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINNED = "torch"


def resolve(work: Path) -> Path:
    """The file of the lowest versions."""
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    (work / "pin.txt").write_text("".join(f"{line}\n" for line in pins if line.startswith(f"{PINNED}==")))
    uv = make(work / "uv")
    install(uv, "uv")
    oldest = PROJECT["requires-python"].removeprefix(">=")
    command = [
        *(
            str(uv),
            "-m",
            "uv",
            "pip",
            "compile",
            str(ROOT / "pyproject.toml"),
            "--resolution",
            "lowest-direct",
        ),
        *("--python-version", oldest, "--constraint", str(work / "pin.txt")),
        *("--no-annotate", "--no-header", "--quiet", "--output-file", str(work / "floors.txt")),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return work / "floors.txt"


def hold(floors: Path) -> None:
    """Hold the stated bounds to the versions that were found.

    Raises:
        SystemExit: some bound is lower than what could be resolved.
    """
    lines = [line for line in floors.read_text(encoding="utf-8").splitlines() if "==" in line]
    found = {canonicalize_name(one.name): one.specifier for one in map(Requirement, lines)}
    wrong = []
    for requirement in map(Requirement, PROJECT["dependencies"]):
        name = canonicalize_name(requirement.name)
        (exact,) = found[name]
        (stated,) = [one.version for one in requirement.specifier if one.operator == ">="]
        if name != PINNED and Version(exact.version) != Version(stated):
            wrong.append(
                f"{requirement.name}: >={stated} is stated, and {exact.version} is the lowest there is"
            )
    if wrong:
        raise SystemExit("\n".join(wrong))


def main() -> None:
    """Resolve, install and try."""
    if sys.version_info[:2] != tuple(map(int, PROJECT["requires-python"].removeprefix(">=").split("."))):
        raise SystemExit(f"run this with Python {PROJECT['requires-python'].removeprefix('>=')}, the oldest")
    with TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "empty").mkdir()
        floors = resolve(work)
        hold(floors)
        command = [sys.executable, "-m", "hatchling", "build", "--directory", str(work), "--target", "wheel"]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        (wheel,) = work.glob("*.whl")
        python = make(work / "venv")
        install(python, "--constraint", str(floors), str(wheel))
        walk(python, work / "empty")
    print("the lowest versions run", flush=True)


if __name__ == "__main__":
    main()
