"""A submission's code as an interpretation: `encode`, `decode` and perhaps `skip`, answered by its processes.

Activations go over batch by batch, and codes and reconstructions come back; targets and texts never go over.
The code runs on the CPU wherever the model is.

`decode` has a process of its own, which has never seen an activation: so nothing but the codes can be in what
it gives. In each of both, a fresh process is given the batch of a call now and then, and has to answer the
same: so neither what a method keeps of earlier batches, nor how it drew its weights when it was built, can be
in a score. It takes the place of the former one. Which calls these are is drawn, for a method can count them:
the next one lies up to eight times as far as the last.
"""

from __future__ import annotations

import math
import secrets
import shutil
import tempfile
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from jaxtyping import Float
from torch import Tensor

from remainder.base.cache import sha256_file
from remainder.errors import InterpretationError
from remainder.interpretation.protocol import Resting
from remainder.interpretation.site_info import SiteInfo
from remainder.submission.sandbox.limits import Limits
from remainder.submission.sandbox.process import Process

__all__ = ["OWN", "PACKAGE", "CodeMethod", "Skipping", "open_method"]

OWN, PACKAGE = "submission", "package"
"""Folders that files are copied to: those of the submission, and of an installed package that it names."""

_PREFIX, _LOCK = "remainder-code-", "lock"
_AGE = 3600.0  # seconds after which a folder that nobody holds is removed
_FARTHER = 8  # times as many calls as before, at most, until a fresh process answers again
_TOLERANCE = 1e-4  # of the root mean square of an answer, as in the rules


class CodeMethod(Resting):
    """An object with `encode` and `decode`, which run in a process each; `Adapted` checks what they give."""

    def __init__(self, encoder: _Server, decoder: _Server) -> None:
        self._encoder, self._decoder = encoder, decoder

    def encode(self, x: Float[Tensor, "docs pos d"]) -> Tensor:
        return self._encoder.ask("encode", x)

    def decode(self, codes: Float[Tensor, "docs pos features"]) -> Tensor:
        return self._decoder.ask("decode", codes)

    def rest(self) -> None:
        self._encoder.close()
        self._decoder.close()


class Skipping(CodeMethod):
    """An object of the same kind, whose method has a path past its codes."""

    def skip(self, x: Float[Tensor, "docs pos d"]) -> Tensor:
        return self._encoder.ask("skip", x)


def open_method(
    name: str, files: Mapping[str, tuple[Path, str | None]], entry: str, site: SiteInfo, limits: Limits
) -> CodeMethod:
    """Copy the files of a submission to a place that nothing else is in, and start its code there.

    Args:
        name: of the submission, for messages.
        files: all that it may read, by their place below `OWN` or `PACKAGE`: the file, and the hash that it
            must have.
        entry: `file:function`, of its own, or `module:function`, of the package.
        site: what its function is told.
        limits: what it may take.

    Raises:
        InterpretationError: a file has changed, or the code does not start, or gives no method.
    """
    _sweep()
    home = Path(tempfile.mkdtemp(prefix=_PREFIX))
    lock = FileLock(home / _LOCK)
    lock.acquire(timeout=0)
    try:
        for folder in (OWN, PACKAGE):
            (home / folder).mkdir()
        for place, (file, digest) in files.items():
            target = home / place
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
            if sha256_file(target) != digest:
                raise InterpretationError(
                    f"{name}: {file} has changed since it was hashed", fix="change nothing while it is scored"
                )
        encoder, decoder = (_Server(name, home, entry, site, limits) for _ in range(2))
        encoder.start()
    except BaseException:
        _remove(home, lock)
        raise
    method = (Skipping if encoder.has_skip else CodeMethod)(encoder, decoder)
    weakref.finalize(method, _close, encoder, decoder, home, lock)
    return method


def _close(encoder: _Server, decoder: _Server, home: Path, lock: FileLock) -> None:
    """End the processes of a method, and remove its files."""
    encoder.close()
    decoder.close()
    _remove(home, lock)


def _remove(home: Path, lock: FileLock) -> None:
    shutil.rmtree(home, ignore_errors=True)
    lock.release()


def _sweep() -> None:
    """Remove what processes left behind that were killed, such as workers: folders that nobody holds."""
    for home in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        # Another user's cannot be locked, and one that was just made may not be locked yet.
        with suppress(OSError, Timeout):
            if time.time() - home.stat().st_mtime > _AGE:
                lock = FileLock(home / _LOCK)
                lock.acquire(timeout=0)
                _remove(home, lock)


class _Server:
    """A process of a method, started when it is first asked, and exchanged for a fresh one now and then."""

    def __init__(self, name: str, home: Path, entry: str, site: SiteInfo, limits: Limits) -> None:
        self.name, self._home, self._entry, self._site, self._limits = name, home, entry, site, limits
        self._calls, self._next = 0, _drawn(1)
        self.has_skip = False
        self._process: Process | None = None

    def ask(self, verb: str, x: Tensor) -> Tensor:
        """The answer to a batch, float32, on its device."""
        self._calls += 1
        answer = _asked(self.start(), verb, x)
        if self._calls == self._next:
            self._next = _drawn(self._calls)
            self._renew(verb, x, answer)
        return answer.to(x.device)

    def start(self) -> Process:
        """The process, which is there from now on."""
        if self._process is None:
            self._process = self._started()
        return self._process

    def close(self) -> None:
        """End it, if there is one; it is started again when it is asked."""
        if self._process is not None:
            self._process.close()
            shutil.rmtree(self._process.writable, ignore_errors=True)
            self._process = None

    def _started(self) -> Process:
        work = Path(tempfile.mkdtemp(prefix="work-", dir=self._home))
        process = Process(self.name, [self._home / OWN, self._home / PACKAGE], work, self._limits)
        words: dict[str, Any] = {
            "verb": "build",
            "entry": self._entry,
            "package": None if ".py:" in self._entry else str(self._home / PACKAGE),
            "folder": str(self._home / OWN),
            "site": asdict(self._site),
        }
        try:
            self.has_skip = bool(process.ask(words, expected="built").words.get("skip"))
        except BaseException:
            process.close()
            shutil.rmtree(work, ignore_errors=True)
            raise
        return process

    def _renew(self, verb: str, x: Tensor, answer: Tensor) -> None:
        self.close()
        fresh = self.start()
        again = _asked(fresh, verb, x)
        change = math.inf
        if again.shape == answer.shape:
            finite = answer.isfinite() & again.isfinite()
            same = finite | (answer.isfinite() == again.isfinite())
            scale = float(answer[finite].double().square().mean().sqrt()) if bool(finite.any()) else 0.0
            moved = float((answer - again)[finite].abs().max()) if bool(finite.any()) else 0.0
            change = (moved / scale if scale else moved) if bool(same.all()) else math.inf
        if not change <= _TOLERANCE:
            raise InterpretationError(
                f"{self.name}: {verb} gives something else for the same batch in a fresh process ("
                f"{change:.2g} of the root mean square): it keeps something of earlier batches, or draws "
                "anew when it is built",
                fix="seed whatever is drawn, and make encode and decode functions of their argument alone",
            )


def _drawn(calls: int) -> int:
    """The number of the next call that a fresh process answers too, after so many."""
    return calls + 1 + secrets.randbelow((_FARTHER - 1) * calls)


def _asked(process: Process, verb: str, x: Tensor) -> Tensor:
    plain = x.detach().to("cpu", torch.float32).contiguous()
    data = plain.numpy().reshape(-1).view("uint8").data
    words = {"verb": verb, "shape": list(plain.shape)}
    message = process.ask(words, data, expected="tensor")
    shape, numbers = message.words.get("shape"), message.numbers
    if (
        not isinstance(shape, list)
        or not all(type(size) is int and 0 <= size < 1 << 40 for size in shape)
        or 4 * math.prod(shape) != len(numbers)
    ):
        process.close()
        raise InterpretationError(
            f"{process.name}: {verb} sent numbers of another shape than it says",
            fix="leave its open files alone",
        )
    found = torch.frombuffer(numbers, dtype=torch.float32) if numbers else torch.empty(0)
    return found.reshape(shape)
