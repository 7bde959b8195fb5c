"""A hash of all that an object in memory consists of, its code too: by it finished records are found again.

1. State: tensors, arrays, numbers, texts and containers by value; other objects by their class and all their
   attributes, private ones too, at any depth.
2. Code: of a class or function from an installed package its name and the package's version; of any other
   the text of its file, and of the files beside it that it imports; from a notebook its compiled code, and
   what that refers to.
3. What can be hashed in none of these ways is named: then the hash does not say everything.

Hashes by pickling know a class by its name alone, and a tensor by its whole storage: an `encode` that was
corrected in a notebook would be taken for the old one, and a copy for something else.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import pathlib
import sys
import sysconfig
import types
from collections import deque
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Fingerprint", "fingerprint"]

_PLAIN = (
    *(bool, int, float, complex, str, bytes, type(None), type(...), range, slice, Enum),
    *(pathlib.PurePath, torch.dtype, torch.device, torch.Size, np.dtype),
)
"""Types whose `repr` says everything."""
_CALLABLE = (
    *(types.FunctionType, types.BuiltinFunctionType),
    *(types.MethodDescriptorType, types.WrapperDescriptorType),
)
_LISTS, _SETS = (list, tuple, deque), (set, frozenset)
_INSTALLED = tuple(
    Path(place).resolve()
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
    if (place := sysconfig.get_path(name))
)
_BESIDE_CODE = frozenset(
    [
        *("__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__firstlineno__"),
        *("__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__", "_abc_impl"),
        *("__static_attributes__", "__slots__"),
    ]
)
"""Names in a class that are no code of it; slots are descriptors, whose values are state."""
_OWN = __name__.partition(".")[0]
"""This package, whose version stands in every measurement key."""


class Fingerprint(NamedTuple):
    """The hash of an object, and what it does not cover."""

    hash: str
    unseen: tuple[str, ...]
    """Places in the object, with the type of what stands there."""


def fingerprint(thing: Any) -> Fingerprint:
    """The hash of an object, equal in another process for equal content and code."""
    walk = _Walk()
    try:
        walk.add("", thing)
    except RecursionError:
        walk.unseen.append("what is nested too deeply")
    return Fingerprint(walk.digest.hexdigest(), tuple(dict.fromkeys(walk.unseen)))


class _Walk:
    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.unseen: list[str] = []
        self.met: dict[int, int] = {}
        """Numbers of objects that were walked through, by identity."""
        self.kept: list[Any] = []
        """Objects that were walked through, so that no identity is given twice."""

    def put(self, *words: object) -> None:
        """Add words to the hash."""
        for word in words:
            data = word if isinstance(word, bytes) else str(word).encode("utf-8", "surrogatepass")
            self.digest.update(len(data).to_bytes(8, "big") + data)

    def add(self, place: str, value: Any) -> None:
        """Add what stands at a place of the object."""
        if isinstance(value, _PLAIN):
            self.put(type(value).__qualname__, repr(value))
        elif id(value) in self.met:
            self.put("again", self.met[id(value)])
        else:
            self.met[id(value)] = len(self.met)
            self.kept.append(value)
            self.put(type(value).__qualname__)
            self._inside(place, value)

    def _inside(self, place: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            self._tensor(place, value)
        elif isinstance(value, (np.ndarray, np.generic)):
            self._array(place, np.asarray(value))
        elif isinstance(value, Mapping):
            self._mapping(place, value)
        elif isinstance(value, _LISTS):
            for number, part in enumerate(value):
                self.add(f"{place}[{number}]", part)
        elif isinstance(value, _SETS):
            self.put(*sorted(fingerprint(part).hash for part in value))
        elif isinstance(value, types.ModuleType):
            self._code(place, value, value.__name__)
        elif isinstance(value, type):
            self._code(place, value, value.__module__)
        elif isinstance(value, _CALLABLE):
            self._function(place, value)
        elif isinstance(value, types.MethodType):
            self.add(f"{place}.__self__", value.__self__)
            self.add(f"{place}.__func__", value.__func__)
        elif isinstance(value, functools.partial):
            self.add(f"{place}.partial", (value.func, value.args, value.keywords))
        else:
            self._object(place, value)

    def _tensor(self, place: str, value: torch.Tensor) -> None:
        if value.layout is not torch.strided or value.is_meta:
            self.unseen.append(f"{place} (a tensor, {value.layout}, on {value.device})")
            return
        raw = value.detach().cpu().contiguous()
        self.put(raw.dtype, tuple(raw.shape), raw.reshape(-1).view(torch.uint8).numpy().tobytes())

    def _array(self, place: str, value: NDArray[Any]) -> None:
        if value.dtype.hasobject:
            self.unseen.append(f"{place} (an array of objects)")
            return
        self.put(value.dtype.str, value.shape, np.ascontiguousarray(value).tobytes())

    def _mapping(self, place: str, value: Mapping[Any, Any]) -> None:
        # In their own order: an object may depend on it, and the same code makes the same one.
        for name, part in value.items():
            self.add(f"{place}.key", name)
            self.add(f"{place}[{name!r}]" if isinstance(name, (str, int)) else f"{place}[…]", part)
        if type(value).__module__ not in ("builtins", "collections"):
            self._object(place, value)

    def _object(self, place: str, value: Any) -> None:
        kind = type(value)
        self.add(f"{place}.__class__", kind)
        attributes = dict(getattr(value, "__dict__", {}))
        slots = [name for base in kind.__mro__ for name in _slots(base)]
        attributes |= {name: getattr(value, name) for name in slots if hasattr(value, name)}
        if not attributes and not (hasattr(value, "__dict__") or slots) and kind is not object:
            self.unseen.append(f"{place.lstrip('.') or 'it'} ({kind.__module__}.{kind.__qualname__})")
        for name in sorted(attributes):
            self.put(name)
            self.add(f"{place}.{name}", attributes[name])

    def _function(self, place: str, value: Any) -> None:
        self._code(place, value, getattr(value, "__module__", None) or "builtins")
        for cell in getattr(value, "__closure__", None) or ():
            try:
                self.add(f"{place}.closure", cell.cell_contents)
            except ValueError:  # it is empty as yet
                self.put("empty")
        self.add(f"{place}.defaults", getattr(value, "__defaults__", None))
        self.add(f"{place}.defaults", getattr(value, "__kwdefaults__", None))

    def _code(self, place: str, value: Any, module: str) -> None:
        """The code of a module, a class or a function."""
        self.put(module, getattr(value, "__qualname__", ""))
        if (version := _installed(module)) is not None:
            self.put(version)
            return
        if isinstance(value, type):
            self.add(f"{place}.bases", value.__bases__)
        if files := _files(module):
            self.put(*(path.read_bytes() for path in files))
        elif isinstance(value, type):
            for name, part in sorted(vars(value).items()):
                if name not in _BESIDE_CODE:
                    self.put(name)
                    self.add(f"{place}.{name}", _bare(part))
        elif isinstance(value, types.FunctionType):
            self._compiled(value.__code__)
            for name in _names(value.__code__):
                if name in value.__globals__:
                    self.put(name)
                    self.add(f"{place}.{name}", value.__globals__[name])

    def _compiled(self, code: types.CodeType) -> None:
        self.put(sys.version.split()[0], code.co_code, code.co_names, code.co_varnames, code.co_freevars)
        for part in code.co_consts:
            if isinstance(part, types.CodeType):
                self._compiled(part)
            else:  # no set is in the same order in another process
                self.put(sorted(map(repr, part)) if isinstance(part, frozenset) else repr(part))


def _bare(part: Any) -> Any:
    """The functions within a method of a class or a property."""
    if isinstance(part, property):
        return (part.fget, part.fset, part.fdel)
    return part.__func__ if isinstance(part, (staticmethod, classmethod)) else part


def _slots(kind: type) -> Iterable[str]:
    slots = kind.__dict__.get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _names(code: types.CodeType) -> list[str]:
    """Global names that code refers to, and code within it; names of attributes are none of them."""
    inner = (part for part in code.co_consts if isinstance(part, types.CodeType))
    read = (step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    return sorted({*read, *(name for part in inner for name in _names(part))})


def _installed(module: str) -> str | None:
    """The version of the package of a module, if it is an installed one; else None."""
    root = module.partition(".")[0]
    if root == _OWN or root in sys.builtin_module_names:
        return ""
    path = _file(module)
    if root in sys.stdlib_module_names and root != "__main__":
        return sys.version.split()[0]
    if path is None or not any(path.is_relative_to(place) for place in _INSTALLED):
        return None
    return str(getattr(sys.modules.get(root), "__version__", ""))


def _file(module: str) -> Path | None:
    """The file of a loaded module; none of a notebook, whose file is that of its kernel."""
    name = None if module == "__main__" else getattr(sys.modules.get(module), "__file__", None)
    return Path(name).resolve() if name else None


def _files(module: str) -> list[Path]:
    """Files of a module and of all that it imports and that are not installed; none of a notebook."""
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _file(name)
        if name in found or path is None or not path.is_file() or _installed(name) is not None:
            continue
        found[name] = path
        for value in list(vars(sys.modules[name]).values()):
            of = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
            if isinstance(of, str):
                waiting.append(of)
    return [found[name] for name in sorted(found)]
