"""The distribution: one version, pins for everything, and data that travel with the wheel."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import hatch_build as hook
import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from remainder import __version__
from remainder.base.paths import SECOND_PACKAGE
from remainder.submission.description import baselines
from remainder.task.spec import list_tasks, load_task

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _pins() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def _names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def _build_wheel(root: Path, target: Path, version: str) -> Path:
    (built,) = WheelBuilder(str(root)).build(directory=str(target), versions=[version])
    return Path(built)


def _tracked(folder: str) -> set[str]:
    """The files of a folder that a wheel has to carry, as hatchling sees them: no caches."""
    files = (path for path in (ROOT / folder).rglob("*") if path.is_file())
    return {path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts}


def test_version_is_the_same_everywhere() -> None:
    source = (ROOT / "harness/remainder/_version.py").read_text(encoding="utf-8")
    (version,) = re.findall(r'^__version__ = "(.+)"$', source, flags=re.MULTILINE)
    (cited,) = re.findall(
        r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE
    )
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "version" in PYPROJECT["project"]["dynamic"]
    assert cited == version
    assert f"## [{version}]" in changes


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_every_direct_dependency_has_one_exact_pin_on_every_python(python: str) -> None:
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    wanted = map(Requirement, [*project["dependencies"], *extras["test"], *extras["lint"], *extras["docs"]])
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    for requirement in wanted:
        if requirement.marker and not requirement.marker.evaluate(environment):
            continue
        name = canonicalize_name(requirement.name)
        pins = [
            pin
            for pin in _pins()
            if canonicalize_name(pin.name) == name and (not pin.marker or pin.marker.evaluate(environment))
        ]
        assert len(pins) == 1, f"{name} has {len(pins)} pins in constraints.txt for Python {python}"
        (exact,) = pins[0].specifier
        assert exact.operator == "=="
        assert requirement.specifier.contains(exact.version), f"{name}: the pin {exact} is out of bounds"


def test_every_import_of_the_package_is_a_declared_dependency() -> None:
    """What comes only through another package can vanish with its next release."""
    imported: set[str] = set()
    for path in (ROOT / "harness/remainder").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
    # Ray is an extra: without it the engine of that name is refused, and nothing else needs it.
    lines = PYPROJECT["project"]["dependencies"] + PYPROJECT["project"]["optional-dependencies"]["ray"]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    providers = packages_distributions()
    # pytest loads its plugin itself: who has no pytest does not import it.
    for name in imported - sys.stdlib_module_names - {"remainder", "pytest"}:
        distributions = {canonicalize_name(provider) for provider in providers.get(name, [])}
        assert distributions & declared, f"{name} is imported but pyproject.toml does not declare it"


def test_torch_pin_names_no_local_version() -> None:
    """`==2.13.0` is met by a CPU build at hand and by the one of the index; `+cpu` only by the first."""
    (torch,) = (str(pin.specifier) for pin in _pins() if pin.name == "torch")
    assert re.fullmatch(r"==\d+\.\d+\.\d+", torch)


def test_precommit_runs_the_pinned_ruff() -> None:
    (ruff,) = (pin for pin in _pins() if pin.name == "ruff")
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert f"rev: v{str(ruff.specifier).removeprefix('==')} " in hooks


def test_a_lower_bound_that_nothing_reaches_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `make floors`, before it installs anything."""
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "packaging"))
    floors = importlib.import_module("floors")
    bounds = map(Requirement, PYPROJECT["project"]["dependencies"])
    lowest = {one.name: next(s.version for s in one.specifier if s.operator == ">=") for one in bounds}
    found = tmp_path / "floors.txt"
    found.write_text("".join(f"{name}=={version}\n" for name, version in lowest.items()))
    floors.hold(found)
    found.write_text(found.read_text().replace(f"typer=={lowest['typer']}", "typer==99"))
    with pytest.raises(
        SystemExit, match=f"typer: >={lowest['typer']} is stated, and 99 is the lowest there is"
    ):
        floors.hold(found)


def _files(chosen: dict[str, str]) -> dict[str, int]:
    """Files that a wheel carries besides its package, with their bytes."""
    files = [path for name in chosen for path in (ROOT / name, *(ROOT / name).rglob("*")) if path.is_file()]
    kept = [path for path in files if "__pycache__" not in path.parts]
    return {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in kept}


def _has_weights(folder: Path) -> bool:
    return any(folder.rglob("*.safetensors"))


def test_two_wheels_carry_all_baselines_between_them() -> None:
    first, second = _files(hook.first_wheel()), _files(hook.second_wheel())
    assert _tracked("tasks") <= first.keys()
    assert {
        "tasks/lock.json",
        "leaderboard/leaderboard.json",
        "leaderboard/snapshots/2026.12.json",
    } <= first.keys()
    described = {name for name in _tracked("baselines") if name.endswith("/submission.toml")}
    assert described <= first.keys()
    folders = {name for name in _tracked("baselines") if name.count("/") > 1}
    assert folders == {name for name in first | second if name.startswith("baselines/")}
    assert not any(name.startswith("leaderboard/") and name.count("/") > 2 for name in first)
    assert first.keys() & second.keys() == {
        f"baselines/{name}/submission.toml" for name in hook.large_baselines()
    }
    # What is in them hardly gets smaller when it is packed: weights are.
    assert sum(first.values()) < 25_000_000
    assert sum(second.values()) < 100_000_000


def test_each_family_of_real_models_has_an_autoencoder_in_the_first_wheel() -> None:
    tasks = [load_task(name) for name in list_tasks()]
    for family in {task.id.partition("/")[0] for task in tasks if task.gives_places}:
        fitting = [found for task in tasks if task.id.startswith(f"{family}/") for found in baselines(task)]
        trained = {folder.name for folder, _ in fitting if _has_weights(folder)}
        assert not trained or trained - set(hook.large_baselines()), family


def test_the_extra_names_the_second_wheel_of_this_version() -> None:
    config = tomllib.loads((ROOT / "baselines" / "pyproject.toml").read_text(encoding="utf-8"))
    (extra,) = PYPROJECT["project"]["optional-dependencies"]["baselines"]
    assert config["project"]["name"] == SECOND_PACKAGE
    assert extra == f"{SECOND_PACKAGE}=={__version__}"
    assert config["project"]["requires-python"] == PYPROJECT["project"]["requires-python"]


@pytest.mark.slow
def test_the_wheel_carries_its_data_and_finds_them(tmp_path: Path) -> None:
    wheel = _build_wheel(ROOT, tmp_path, "standard")
    assert wheel.stat().st_size < 25_000_000
    prefix = "remainder/_bundled/"
    bundled = {name.removeprefix(prefix) for name in _names(wheel) if name.startswith(prefix)}
    assert bundled == _files(hook.first_wheel()).keys()
    assert "remainder/py.typed" in _names(wheel)

    installed = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    code = "import remainder.base.paths as p; print(p.__file__, p.project_root(), sep='\\n')"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-c", code]
    output = subprocess.check_output(command, env=environment, cwd=tmp_path, text=True).splitlines()
    assert output == [str(installed / "remainder/base/paths.py"), str(installed / "remainder/_bundled")]


def test_editable_install_reads_the_checkout(tmp_path: Path) -> None:
    names = _names(_build_wheel(ROOT, tmp_path, "editable"))
    assert not any("_bundled" in name for name in names)
    assert any(name.endswith(".pth") for name in names)


@pytest.mark.slow
def test_source_distribution_builds_the_same_wheels(tmp_path: Path) -> None:
    (sdist,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path / "sdist"), versions=["standard"])
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.glob("remainder-*")
    assert Path(sdist).stat().st_size < 100_000_000
    for part in (".", "baselines"):
        from_sdist = _names(_build_wheel(unpacked / part, tmp_path / "a", "standard"))
        from_checkout = _names(_build_wheel(ROOT / part, tmp_path / "b", "standard"))
        assert from_sdist == from_checkout
