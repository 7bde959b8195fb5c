"""The process that runs a submission's code, seen from the harness: started, asked, watched, and ended.

1. It is a fresh interpreter in a session and group of its own, with a clean environment, one end of a socket,
   and nothing else that this process has open. What it may do then: `sandbox.confine`.
2. It is asked by `sandbox.wire`. What it prints is thrown away, but for the end, which a message about its
   death may need.
3. Whatever it does – answers nonsense, ends, takes too long – becomes one `InterpretationError`, its whole
   group is killed, and every later question gets the same error.
"""

from __future__ import annotations

import os
import selectors
import signal
import site
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import torch

from remainder.errors import InterpretationError, printable
from remainder.submission.sandbox import wire
from remainder.submission.sandbox.limits import MEMORY, SECONDS, Limits, system_places

__all__ = ["Process"]

_ROOT = str(Path(__file__).resolve().parents[3])
_PROGRAM = """
import sys
sys.path[:] = [place for place in sys.path if place]
sys.path.insert(0, sys.argv[1])
from remainder.submission.sandbox.child import main
del sys.path[0]
main(int(sys.argv[2]))
"""
_PART = 1 << 20
_LOOK = 1.0  # seconds between two looks at what it has written
_KEPT = 2000  # letters of what it printed last
_LETTERS = 400  # of those, or of an error's text, in a message
_OUT_OF_MEMORY = ("MemoryError", "alloc", "Cannot allocate memory")
_BEYOND = ("TaskError", "AssetError")  # what this package raises where it reaches no task and no cache
_REFUSED = ("PermissionError", "Operation not permitted", "Permission denied")


class Process:
    """A process that runs the code of one submission.

    Args:
        name: of the submission, for messages.
        readable: folders that it may read, beside those of Python.
        writable: the folder that it may write to, and where it starts.
        limits: what it may take.

    Raises:
        InterpretationError: it does not start.
    """

    def __init__(self, name: str, readable: Sequence[Path], writable: Path, limits: Limits) -> None:
        self.name, self.limits, self.writable = name, limits, writable
        self._broken: InterpretationError | None = None
        self._printed = bytearray()
        ours, theirs = socket.socketpair()
        self._channel = ours
        ours.setblocking(False)
        threads = torch.get_num_threads()
        flags = ["-s"] if sys.flags.no_user_site else []
        try:
            self._process = subprocess.Popen(
                [sys.executable, *flags, "-c", _PROGRAM, _ROOT, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
                env=_environment(writable, threads),
                cwd=writable,
                start_new_session=True,
            )
        finally:
            theirs.close()
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        order = {
            "readable": [*map(str, readable), *system_places()],
            "writable": [str(writable), "/dev/null"],
            "threads": threads,
            "seconds": limits.total,
            "largest": limits.largest,
            "memory": limits.memory,
        }
        try:
            self.ask(order, expected="ready", seconds=limits.start)
        except BaseException:
            self.close()
            raise

    def ask(
        self,
        words: dict[str, Any],
        numbers: memoryview | bytes = b"",
        *,
        expected: str,
        seconds: float | None = None,
    ) -> wire.Message:
        """Send a message, and wait for the answer.

        Args:
            expected: the kind of answer.
            seconds: how long is waited; default: as the limits say.

        Raises:
            InterpretationError: the code raised something or answers otherwise, or its process has ended.
        """
        if self._broken is not None:
            raise self._broken
        verb = str(words.get("verb", "starting"))
        seconds = self.limits.seconds if seconds is None else seconds
        text = wire.packed(words)
        try:
            head = wire.head_of(text, len(numbers)) + text
            exchange = _Exchange(self._channel, self._process.stdout, self._printed, head, numbers)
            answer = exchange.run(time.monotonic() + seconds, self.limits.answer, self._look)
        except TimeoutError:
            self._end(
                f"{verb} took longer than {seconds:g} seconds",
                f"make it faster, or allow more with {SECONDS}",
            )
        except (EOFError, ConnectionError):
            self._end(*self._death(verb))
        except _TooMuchError as problem:
            self._end(f"{verb} wrote {problem} to its temporary folder", "write less, and remove it")
        except (ValueError, OSError) as problem:
            self._end(f"{verb} sent what is no answer: {problem}", "leave its open files alone")
        except BaseException:  # interrupted in the middle of a message
            self.close()
            raise
        if answer.words.get("kind") == "fault":
            raise self._fault(answer.words)
        if answer.words.get("kind") != expected:
            self._end(f"{verb} sent another answer than asked for", "leave its open files alone")
        return answer

    def close(self) -> None:
        """End the process, and all that it may have started."""
        if self._broken is None:
            self._broken = InterpretationError(f"{self.name}: the process of its code has been ended")
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._channel.close()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _look(self) -> None:
        """Raise _TooMuchError if it has written more than it may."""
        size = count = 0
        waiting = [self.writable]
        while waiting:
            with suppress(FileNotFoundError), os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    count += 1
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    else:
                        size += entry.stat(follow_symlinks=False).st_size
                    if size > self.limits.largest or count > self.limits.files:
                        raise _TooMuchError(
                            f"more than {self.limits.largest / 1e9:g} GB or {self.limits.files:,} files"
                        )

    def _end(self, what: str, fix: str) -> NoReturn:
        self._broken = InterpretationError(f"{self.name}: its code was stopped: {what}", fix=fix)
        self.close()
        raise self._broken

    def _fault(self, words: dict[str, Any]) -> InterpretationError:
        """The error of what the code raised; it may be asked again."""
        verb, error, what, where = (str(words.get(key, "")) for key in ("verb", "error", "what", "where"))
        what = what if len(what) <= _LETTERS else f"{what[:_LETTERS]} …"
        if verb == "starting":
            what = f"{self.name}: the process of its code cannot be confined: {error}: {what}"
            return InterpretationError(what, fix="report this, with the version of your kernel")
        if words.get("is_wrong"):
            return InterpretationError(f"{self.name}: {what}", fix="correct its code")
        told = f"{self.name}: {verb} in its code raised {error}: {what or 'no message'}"
        fix = "correct its code; it runs as in your own Python, but confined"
        if any(word in f"{error}: {what}" for word in _OUT_OF_MEMORY):
            fix = f"let it take less than {self.limits.memory / 1e9:g} GB, or allow more with {MEMORY}"
        elif any(word in f"{error}: {what}" for word in _REFUSED):
            fix = (
                "read nothing but its own folder and installed packages, write to no place but tempfile's, "
                "start no process, open no connection and lock no file"
            )
        elif error in _BEYOND:
            fix = "read tasks and texts where it is trained; here it has its own files, and what it is given"
        elif error == "FileNotFoundError":
            fix = "it starts in an empty folder: read its files by `folder / NAME`, as `build` is given it"
        elif error in ("ModuleNotFoundError", "ImportError"):
            fix = "install what it imports, or put it beside the file of the entry"
        return InterpretationError(told + (f" ({where})" if where else ""), fix=fix)

    def _death(self, verb: str) -> tuple[str, str]:
        """The cause of the end of the process, and a remedy."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        _drain(self._process.stdout, self._printed)
        code = self._process.poll()
        if code is None:
            return f"{verb} closed the channel", "leave its open files alone"
        last = " ".join(printable(self._printed.decode(errors="replace")).split())[-_LETTERS:]
        printed = f"; it printed last: {last}" if last else ""
        if code >= 0:
            return f"{verb} ended its process with code {code}{printed}", "return, in place of leaving"
        reason = f"{verb} was ended by signal {-code} ({signal.strsignal(-code)}){printed}"
        if -code == signal.SIGXCPU:
            return reason, "it used more processor time than there is for a submission"
        return reason, f"look for a fault in compiled code, and for memory: {self.limits.memory / 1e9:g} GB"


def _environment(folder: Path, threads: int) -> dict[str, str]:
    """The environment of the process: what Python and torch need, and nothing of this user's."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "TZ") if name in os.environ}
    if site.ENABLE_USER_SITE:
        kept["PYTHONUSERBASE"] = site.getuserbase()
    return {
        **kept,
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LC_ALL": "C.UTF-8",
        "MALLOC_ARENA_MAX": "4",  # each takes 64 MB of addresses, which memory is limited by
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "CUDA_VISIBLE_DEVICES": "",
    }


def _drain(output: Any, printed: bytearray) -> bool:
    """Take what was printed, and keep its end; False once nothing can be printed any more."""
    with suppress(BlockingIOError):
        found = os.read(output.fileno(), _PART)
        printed += found
        del printed[:-_KEPT]
        return bool(found)
    return True


class _TooMuchError(Exception):
    """The code has written too much; the message says what it may."""


class _Exchange:
    """One question and its answer, while what the process prints is taken off its hands."""

    def __init__(
        self,
        channel: socket.socket,
        output: Any,
        printed: bytearray,
        head: bytes,
        numbers: memoryview | bytes,
    ) -> None:
        self._channel, self._output, self._printed = channel, output, printed
        self._left = [memoryview(part) for part in (head, numbers) if len(part)]
        self._received = bytearray()
        self._wanted = wire.HEAD.size
        self._sizes: tuple[int, int] | None = None

    def run(self, deadline: float, most: int, look: Callable[[], None]) -> wire.Message:
        """Send all, and receive one message.

        Args:
            deadline: by `time.monotonic`.
            most: bytes of numbers that are taken.
            look: called every second, and at the end; what it raises ends the exchange.

        Raises:
            TimeoutError: it is not there by then.
            EOFError, ConnectionError: the other side is at its end.
            ValueError: it is no message, or a larger one.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel, selectors.EVENT_READ | selectors.EVENT_WRITE)
            selector.register(self._output, selectors.EVENT_READ)
            looked = time.monotonic()
            while True:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                if time.monotonic() > looked + _LOOK:
                    look()
                    looked = time.monotonic()
                for key, events in selector.select(min(left, _LOOK)):
                    if key.fileobj is self._output:
                        if not _drain(self._output, self._printed):
                            selector.unregister(self._output)
                        continue
                    if events & selectors.EVENT_WRITE and not self._write():
                        selector.modify(self._channel, selectors.EVENT_READ)
                    if events & selectors.EVENT_READ and (message := self._read(most)) is not None:
                        _drain(self._output, self._printed)
                        look()
                        return message

    def _write(self) -> bool:
        """Send what the channel takes; False once all is sent."""
        if self._left:
            sent = self._channel.send(self._left[0][:_PART])
            self._left[0] = self._left[0][sent:]
            if not len(self._left[0]):
                del self._left[0]
        return bool(self._left)

    def _read(self, most: int) -> wire.Message | None:
        """Receive what is there; the message, once it is whole."""
        part = self._channel.recv(min(_PART, self._wanted - len(self._received)) or 1)
        if not part:
            raise EOFError
        self._received += part
        if self._sizes is None and len(self._received) == wire.HEAD.size:
            words, numbers = wire.parse_head(bytes(self._received))
            if words > wire.LONGEST or numbers > most:
                raise ValueError(f"it announces {words + numbers:,} bytes")
            self._sizes, self._wanted = (words, numbers), wire.HEAD.size + words + numbers
        if self._sizes is None or len(self._received) < self._wanted:
            return None
        start = wire.HEAD.size + self._sizes[0]
        words_ = wire.parse_words(bytes(self._received[wire.HEAD.size : start]))
        del self._received[:start]
        return wire.Message(words_, self._received)
