"""The process that runs a submission's code: it is confined, builds the method, and answers to the end.

It is started by `remainder.submission.sandbox.process`, and imports nothing heavy before it is confined.
"""

from __future__ import annotations

import importlib
import importlib.util
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

from remainder.interpretation.site_info import SiteInfo
from remainder.submission.sandbox import wire
from remainder.submission.sandbox.confine import confine, limit_memory

__all__ = ["main"]

VERBS = ("encode", "decode")
_MODULE = "submitted_method"
_TRACED = 3  # frames of the submission's own code that are told of


def main(number: int) -> None:
    """Serve the channel of this number, as the first message on it orders."""
    channel = socket.socket(fileno=number)
    order = wire.receive(channel)
    assert order is not None
    try:
        confine(order.words)
        import torch

        torch.set_num_threads(order.words["threads"])
        torch.manual_seed(0)
        limit_memory(order.words["memory"])
    except BaseException as problem:
        wire.send(channel, _fault(problem, "starting", None))
        return
    wire.send(channel, {"kind": "ready"})
    thing, folder = None, None
    while (message := wire.receive(channel)) is not None:
        verb, words = message.words["verb"], message.words
        try:
            with torch.no_grad():
                if verb == "build":
                    folder = words["folder"]
                    thing = _build(words)
                    has_skip = callable(getattr(thing, "skip", None))
                    wire.send(channel, {"kind": "built", "skip": has_skip})
                else:
                    _answer(channel, thing, verb, words["shape"], message.numbers)
        # Whatever it is, also an attempt to leave: the harness is told, and decides.
        except BaseException as problem:
            wire.send(channel, _fault(problem, verb, folder))


class _WrongError(Exception):
    """The code gave something that it must not; the message says what is expected."""


def _build(words: dict[str, Any]) -> Any:
    module, _, name = words["entry"].partition(":")
    folder = Path(words["folder"])
    if words["package"] is not None:
        sys.path.insert(0, words["package"])
    make: Any = importlib.import_module(module) if words["package"] else _module_at(folder / module)
    for part in name.split("."):
        if not hasattr(make, part):
            raise _WrongError(f"{module} has no {name}; expected a function {name}(folder, site)")
        make = getattr(make, part)
    if not callable(make):
        raise _WrongError(f"{name} is no function; expected {name}(folder, site)")
    thing = make(folder, SiteInfo(**words["site"]))
    missing = [verb for verb in VERBS if not callable(getattr(thing, verb, None))]
    if missing:
        raise _WrongError(
            f"{name} gave an object of type {type(thing).__name__}, which has no {' and no '.join(missing)}; "
            "expected encode(x) -> codes and decode(codes) -> x̂"
        )
    return thing


def _module_at(path: Path) -> Any:
    """The module in a file of the submission, which may import the files beside it."""
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(_MODULE, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE] = module
    spec.loader.exec_module(module)
    return module


def _answer(channel: socket.socket, thing: Any, verb: str, shape: list[int], numbers: bytearray) -> None:
    import torch

    x = torch.frombuffer(numbers, dtype=torch.float32) if numbers else torch.empty(0)
    value = getattr(thing, verb)(x.reshape(shape))
    if not isinstance(value, torch.Tensor):
        raise _WrongError(f"{verb} gave {type(value).__name__} instead of a tensor")
    if value.is_complex() or value.layout != torch.strided:
        kind = "complex" if value.is_complex() else "sparse"
        raise _WrongError(f"{verb} gave a {kind} tensor; expected a dense, real one")
    plain = value.detach().to("cpu", torch.float32).contiguous()
    data = plain.numpy().reshape(-1).view("uint8").data
    wire.send(channel, {"kind": "tensor", "shape": list(value.shape)}, data)


def _fault(problem: BaseException, verb: str, folder: str | None) -> dict[str, Any]:
    """The answer that tells what went wrong, and where in the submission's own code."""
    own = "" if folder is None else f"{folder}/"
    frames = [
        f"{Path(frame.filename).name}, line {frame.lineno}"
        for frame in traceback.extract_tb(problem.__traceback__)
        if own and frame.filename.startswith(own)
    ]
    try:
        text = str(problem)
    except BaseException as another:  # its message is the submission's code too
        text = f"its message cannot be made: {type(another).__name__}"
    if own:
        text = " ".join(text.replace(own, "").split())
    return {
        "kind": "fault",
        "verb": verb,
        "is_wrong": isinstance(problem, _WrongError),
        "error": type(problem).__name__[:100],
        "what": text[:2000],
        "where": " > ".join(frames[-_TRACED:])[:500],
    }
