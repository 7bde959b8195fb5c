"""Snapshots: the tree against vectors of Certificate Transparency, freezing, and what is frozen already."""

from __future__ import annotations

import copy
import gzip
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from terminal import Command

from remainder.board.snapshot import (
    check_snapshot,
    freeze,
    make_snapshot,
    merkle_root,
    read_snapshot,
    results_folder,
    snapshots_folder,
)
from remainder.board.verify import record_files
from remainder.errors import RecordError
from remainder.record.store import values_path

FROZEN: dict[str, str] = {
    "2026.12": "a43c90739406a420edce93616751d31d165a8dcecdc34b412e38741221eeeb53",
    "2026.12.2": "1b53fbe1d7a58dbe55171ab80e7d65cffc26a13daa850a0b1a2a2edadf864587",
}
"""Root of every snapshot that was ever frozen. Lines are added, never changed and never removed."""

# Leaves and roots that implementations of RFC 6962 are tested with.
LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


@pytest.fixture(scope="module")
def originals() -> list[Path]:
    """Three committed records of one task, of those with the fewest values."""

    def values(path: Path) -> tuple[int, Path]:
        return values_path(path).stat().st_size, path

    tasks = [sorted(folder.glob("*/*.json"), key=values)[:3] for folder in results_folder().glob("*/*/*")]
    return min(
        (three for three in tasks if len(three) == 3), key=lambda three: sum(values(p)[0] for p in three)
    )


@pytest.fixture
def results(originals: list[Path], tmp_path: Path) -> Path:
    """A folder of results with a copy of these."""
    return copied(originals, tmp_path / "results")


def copied(originals: list[Path], root: Path) -> Path:
    for path in originals:
        target = root / path.relative_to(results_folder())
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
        shutil.copy(values_path(path), values_path(target))
    return root


@pytest.fixture(scope="module")
def frozen(originals: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the file of a snapshot of the three holds."""
    root = copied(originals, tmp_path_factory.mktemp("frozen") / "results")
    found: dict[str, Any] = json.loads(freeze("2026.12", results=root, folder=root.parent).read_bytes())
    return found


def written(content: dict[str, Any], folder: Path) -> Path:
    """A folder of snapshots with one of this content."""
    folder.mkdir()
    (folder / "2026.12.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    return folder


@pytest.mark.parametrize("count", range(len(ROOTS)))
def test_the_root_is_that_of_other_implementations(count: int) -> None:
    assert merkle_root(LEAVES[:count]) == ROOTS[count]


def pairwise_root(leaves: list[bytes]) -> str:
    """The same tree from below: neighbours are joined, one that is left over moves up as it is."""
    level = [hashlib.sha256(b"\0" + leaf).digest() for leaf in leaves]
    while len(level) > 1:
        joined = [
            hashlib.sha256(b"\1" + left + right).digest()
            for left, right in zip(level[::2], level[1::2], strict=False)
        ]
        level = joined + level[len(level) - len(level) % 2 :]
    return level[0].hex()


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13, 180, 255, 256, 257])
def test_the_root_from_below_is_the_same(count: int) -> None:
    leaves = [str(number).encode() for number in range(count)]
    assert merkle_root(leaves) == pairwise_root(leaves)


def test_a_node_is_no_leaf() -> None:
    first, second = (hashlib.sha256(b"\0" + leaf).digest() for leaf in (b"a", b"b"))
    assert merkle_root([first + second]) != merkle_root([b"a", b"b"])


def test_a_snapshot_is_written_once_and_can_be_rebuilt(results: Path, tmp_path: Path) -> None:
    folder = tmp_path / "snapshots"
    path = freeze("2026.12", results=results, folder=folder)
    content = path.read_bytes()
    found = read_snapshot("2026.12", folder=folder)
    assert [entry.record_id for entry in found.records] == sorted(
        file.stem for file in results.rglob("*.json")
    )
    for entry in found.records:
        assert hashlib.sha256((results / entry.path).read_bytes()).hexdigest() == entry.sha256
    with pytest.raises(RecordError, match="is frozen, and never written again"):
        freeze("2026.12", results=results, folder=folder)
    assert check_snapshot("2026.12", results=results, folder=folder) == found
    assert path.read_bytes() == content
    # The order in which files are found does not matter, and records that came later do not either.
    shuffled = make_snapshot("2026.12", results, record_files(results)[0][::-1])
    assert shuffled.content == content


def test_a_changed_record_breaks_the_snapshots_that_hold_it(results: Path, tmp_path: Path) -> None:
    folder = tmp_path / "snapshots"
    freeze("2026.12", results=results, folder=folder)
    path = next(results.rglob("*.json"))
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content, indent=2))  # the same content in other bytes
    with pytest.raises(RecordError, match=rf"its records give .*{path.name}"):
        check_snapshot("2026.12", results=results, folder=folder)
    path.unlink()
    with pytest.raises(RecordError, match="no such record"):
        check_snapshot("2026.12", results=results, folder=folder)


def test_values_that_were_changed_break_a_snapshot(
    results: Path, frozen: dict[str, Any], tmp_path: Path
) -> None:
    folder = written(frozen, tmp_path / "snapshots")
    values = next(results.rglob("*.csv.gz"))
    values.write_bytes(gzip.compress(gzip.decompress(values.read_bytes()).replace(b"1", b"2", 1)))
    with pytest.raises(RecordError, match="content hash"):
        check_snapshot("2026.12", results=results, folder=folder)


@pytest.mark.parametrize("field", ["root", "record_id", "path", "sha256", "values_sha256", "version"])
def test_an_edited_snapshot_is_noticed(
    results: Path, frozen: dict[str, Any], tmp_path: Path, field: str
) -> None:
    content = copy.deepcopy(frozen)
    place = {"root": content, "version": content["tasks"][0]}.get(field, content["records"][1])
    other = {
        "version": "9-A",
        "record_id": content["records"][0]["record_id"],
        "path": content["records"][0]["path"],
    }
    place[field] = other.get(field, "0" * 64)
    folder = written(content, tmp_path / "snapshots")
    with pytest.raises(RecordError):
        check_snapshot("2026.12", results=results, folder=folder)


def test_what_was_frozen_is_found_unedited(results: Path, frozen: dict[str, Any], tmp_path: Path) -> None:
    """So that the tests of edits see nothing but the edit."""
    folder = written(frozen, tmp_path / "snapshots")
    assert check_snapshot("2026.12", results=results, folder=folder).root == frozen["root"]


def test_no_path_leads_out_of_the_results(results: Path, frozen: dict[str, Any], tmp_path: Path) -> None:
    content = copy.deepcopy(frozen)
    content["records"][0]["path"] = "../outside.json"
    folder = written(content, tmp_path / "snapshots")
    with pytest.raises(RecordError, match="lies outside of the results"):
        check_snapshot("2026.12", results=results, folder=folder)


def test_what_does_not_pass_is_not_frozen(results: Path, tmp_path: Path) -> None:
    stray = results / "notes.txt"
    stray.write_text("hello")
    with pytest.raises(RecordError, match=r"1 of 4 files do not pass.*notes\.txt: is neither"):
        freeze("2026.12", results=results, folder=tmp_path / "snapshots")
    assert not (tmp_path / "snapshots").exists()


@pytest.mark.parametrize("name", ["2026", "2026.13", "../2026.12", "2026.12.json", "", "latest"])
def test_names_are_years_and_months(name: str) -> None:
    with pytest.raises(RecordError, match="is not the name of a snapshot"):
        read_snapshot(name)


def test_an_unknown_snapshot_is_told_with_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "2026.12.json").write_text("{}")
    with pytest.raises(RecordError, match=r"there is no snapshot '2026\.11'") as raised:
        read_snapshot("2026.11", folder=tmp_path)
    assert "2026.12" in str(raised.value.fix)
    with pytest.raises(RecordError, match=r"2026\.12\.json: \w+: "):
        read_snapshot("2026.12", folder=tmp_path)


def test_the_command_freezes_and_checks(results: Path, tmp_path: Path, remainder: Command) -> None:
    options = ["--results", results, "--out", tmp_path / "snapshots"]
    done = remainder("board", "freeze", "2026.12", *options)
    assert done.code == 0, done.err
    root = read_snapshot("2026.12", folder=tmp_path / "snapshots").root
    assert root in done.out
    assert (
        f"root {root}: as it was frozen" in remainder("board", "freeze", "2026.12", "--check", *options).out
    )
    again = remainder("board", "freeze", "2026.12", *options)
    assert again.code == 7
    assert "never written again" in again.err


def test_every_frozen_snapshot_is_as_it_was() -> None:
    """Fails if a frozen file, or a record in it, is changed, removed, or added without its root here."""
    there = {path.stem for path in snapshots_folder().glob("*.json")}
    assert there == set(FROZEN)
    for name, root in FROZEN.items():
        assert check_snapshot(name).root == root
