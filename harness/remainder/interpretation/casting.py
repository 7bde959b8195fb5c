"""A float32 copy of an object from a notebook, just as files are read as float32 whatever type they store.

1. `_Survey` looks through all that the object holds – attributes, slots, lists, dicts, submodules – for
   tensors that are float16, bfloat16 or float64, and for weights that are not plain numbers.
2. `copy.deepcopy` makes the copy. Its memo is filled beforehand with a float32 replacement of each of these
   tensors, and with float32 for every mention of their type, since `encode` may look there
   (`x.to(self.dtype)`). So the object itself is not changed, tensors in float32 are not doubled, and it does
   not matter how the object is built. Float16 and float64 arrays of numpy are cast too, since
   torch.from_numpy keeps their type.
3. A float64 object that accepts float32 activations stays as it is. So does one whose own code asks for the
   type that it has, or whose tensors only a function keeps; a warning says so.

Objects that cannot be copied, or are quantised, are refused with a way to mend it.
"""

from __future__ import annotations

import collections
import copy
import functools
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from remainder.base.messages import message_of
from remainder.errors import InterpretationError

__all__ = ["in_float32", "odd_kind", "on_device", "require_plain", "unwrapped"]

_CAST = (torch.float16, torch.bfloat16, torch.float64)
_TAKEN = (*_CAST, torch.float32)
_OF_NUMPY = {"float16": torch.float16, "float64": torch.float64}
_TO_FLOAT32 = "give it in float32: sae.to(torch.float32), or its tensors by tensor.float()"
_EXPECTED = "a plain array of float16, bfloat16, float32 or float64"
_DEQUANTISE = "give it as float32 with its scale worked in (a sparse one with to_dense)"
_NAMES = frozenset(
    f"{prefix}{kind}" for kind in ("float16", "bfloat16", "float64") for prefix in ("", "torch.")
)
_SETTINGS = ("cfg", "config")
_OF_MODULES = frozenset({"_parameters", "_buffers", "_modules"})
_ATOMS = (type(None), bool, int, float, complex, str, bytes, type, types.ModuleType, torch.dtype)


class Cast(NamedTuple):
    """The result of `in_float32`."""

    thing: Any
    warnings: tuple[str, ...] = ()


def unwrapped(thing: Any) -> Any:
    """The module inside an object made by torch.compile; any other object itself."""
    inner = getattr(thing, "_orig_mod", None)
    return inner if isinstance(thing, nn.Module) and isinstance(inner, nn.Module) else thing


def require_plain(thing: Any, name: str) -> None:
    """Refuse an object with a tensor that is not a plain array of float or whole numbers.

    Raises:
        InterpretationError: if there is one; names the tensor and its kind.
    """
    for path, value in _Survey(thing).tensors:
        kind = _odd(value)
        if kind:
            raise InterpretationError(f"{name}: {path} is {kind}; expected {_EXPECTED}", fix=_DEQUANTISE)


def in_float32(
    thing: Any, name: str, width: int, *, probe: bool = True, renewed: frozenset[str] = frozenset()
) -> Cast:
    """The object itself if all its tensors are float32, else a copy in which they are.

    Args:
        thing: any object with `encode` and `decode`.
        name: name of the object, for messages.
        width: width of the activations that it receives.
        probe: whether its methods may be called, to see whether they accept float32 as they are.
        renewed: attributes with functions that keep the object itself, and that the caller makes anew.

    Raises:
        InterpretationError: if its weights are whole numbers that its methods cannot use, or it cannot be
            copied.
    """
    survey = _Survey(thing)
    cast = _cast(thing, name, width, survey, renewed, probe=probe)
    whole = [(path, value) for path, value in survey.tensors if _is_whole_weight(path, value)]
    if whole and not (probe and _takes_float32(cast.thing, width, _place(survey))):
        path, value = whole[0]
        raise InterpretationError(
            f"{name}: {path} is stored as {_short(value.dtype)}; expected {_EXPECTED}", fix=_DEQUANTISE
        )
    return cast


def _cast(
    thing: Any, name: str, width: int, survey: _Survey, renewed: frozenset[str], *, probe: bool
) -> Cast:
    """The work of `in_float32` for objects without whole-number weights."""
    place = _place(survey)
    kept = [one for one in survey.kept(renewed) if one[1].dtype in _CAST]
    kinds = {value.dtype for _, value in (*survey.tensors, *kept) if value.dtype in _CAST}
    if probe:  # objects of sae-lens, by contrast, compute with tensors alone
        kinds |= {_OF_NUMPY[value.dtype.name] for value in survey.arrays}
    if not kinds or (probe and kinds == {torch.float64} and _takes_float32(thing, width, place)):
        return Cast(thing)
    copied = thing
    if not kept:
        copied = _copied(thing, survey, name, torch.float32, None)
        if not probe or _takes_float32(copied, width, place):
            return Cast(copied)
    if probe and _takes_float32(thing, width, place):
        listed = ", ".join(sorted(map(_short, kinds)))
        return Cast(
            thing, (f"{name} computes in {listed} by its own code, and could not be cast to float32.",)
        )
    if kept:
        raise _kept_by_a_function(name, kept[0])
    # An error shows when the object is used. A float64 one may just need more tokens at once.
    return Cast(thing if kinds == {torch.float64} and probe else copied)


def on_device(thing: Any, name: str, width: int, device: torch.device) -> Any:
    """The object itself if all its tensors are on `device`, or it takes activations there; else a copy there.

    Args:
        thing, name, width: see `in_float32`.
        device: device of the activations.

    Raises:
        InterpretationError: if it cannot be copied.
    """
    survey = _Survey(thing)
    if all(value.device.type == device.type for _, value in survey.tensors):
        return thing
    moved = _copied(thing, survey, name, None, device)
    # Its own code may move activations to its weights and back.
    itself = not _takes_float32(moved, width, device) and _takes_float32(thing, width, device)
    return thing if itself else moved


def _place(survey: _Survey) -> torch.device:
    return next((value.device for _, value in survey.tensors), torch.device("cpu"))


def odd_kind(value: Tensor) -> str:
    """A description of a tensor that is not a plain array of numbers; empty for one that is."""
    if value.is_nested:
        return "a nested tensor"
    if value.layout != torch.strided:
        return "a sparse tensor"
    if value.is_meta:
        return "a tensor without values (on the device meta)"
    return ""


def _odd(value: Tensor) -> str:
    """A reason why a tensor cannot be hashed, cast and computed with; empty if it can."""
    if torch.nn.parameter.is_lazy(value):
        return "a tensor without values (of a lazy module)"
    if value.is_quantized:
        return f"quantised ({_short(value.dtype)})"
    if kind := odd_kind(value):
        return kind
    if value.is_floating_point() and value.dtype not in _TAKEN:
        return f"stored as {_short(value.dtype)}"
    if hasattr(value, "__tensor_flatten__"):
        return f"a {type(value).__name__}"  # a wrapper of several tensors, such as numbers and their scales
    return ""


def _is_whole_weight(path: str, value: Tensor) -> bool:
    """Whether it is a quantised matrix or bias; other tensors of whole numbers only count things."""
    is_weight = isinstance(value, nn.Parameter) or path.rpartition(".")[2].startswith(("W_", "b_"))
    return is_weight and not value.is_floating_point() and not value.is_complex()


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _kept_by_a_function(name: str, kept: tuple[str, Tensor]) -> InterpretationError:
    path, value = kept
    return InterpretationError(
        f"{name}: the function at {path} keeps a tensor to itself ({_short(value.dtype)}), which no copy of "
        "the object can change",
        fix=_TO_FLOAT32,
    )


class _Survey:
    """All tensors reachable from an object, each once, with the path of names that leads there."""

    def __init__(self, thing: Any) -> None:
        self.tensors: list[tuple[str, Tensor]] = []
        self.devices: list[torch.device] = []
        self.arrays: list[NDArray[Any]] = []
        """Arrays of numpy that must be cast."""
        self._functions: list[tuple[str, types.FunctionType]] = []
        self._walk("", thing, self.tensors, {})

    def kept(self, renewed: frozenset[str] = frozenset()) -> list[tuple[str, Tensor]]:
        """Tensors that functions hold, for example in closures.

        A copy of the object shares these functions, which go on using the tensors of the original.
        """
        found: list[tuple[str, Tensor]] = []
        for path, function in list(self._functions):
            if path.rpartition(".")[2] not in renewed:
                for cell in function.__closure__ or ():
                    self._walk(path or "its top", _content(cell), found, {}, stay=True)
        return found

    def _walk(
        self,
        start: str,
        thing: Any,
        found: list[tuple[str, Tensor]],
        seen: dict[int, Any],
        *,
        stay: bool = False,
    ) -> None:
        """Walk the object without recursion, since a list of lists may be deep.

        Args:
            seen: objects visited so far; holding them keeps their `id` from being reused.
            stay: whether all tensors get the name `start`, and nothing else is noted.
        """
        waiting = collections.deque([(start, thing)])
        while waiting:
            path, value = waiting.popleft()
            if isinstance(value, _ATOMS) or id(value) in seen:
                continue
            seen[id(value)] = value
            if isinstance(value, Tensor):
                found.append((path or "it", value))
            elif isinstance(value, types.FunctionType):
                if not stay:
                    self._functions.append((path, value))
                waiting += [(path, _content(cell)) for cell in value.__closure__ or ()] if stay else []
            elif isinstance(value, torch.device):
                self.devices.append(value)
            elif isinstance(value, np.ndarray) and value.dtype.name in _OF_NUMPY:
                self.arrays += [] if stay else [value]
            else:
                waiting += [
                    (path if stay else f"{path}.{key}".lstrip("."), part)
                    for key, part in _parts(value)
                    if not isinstance(part, _ATOMS)
                ]


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """The parts of an object that `copy.deepcopy` would visit."""
    if isinstance(value, dict):  # other mappings may compute their items, and keep their data as attributes
        yield from ((str(key), part) for key, part in dict.items(value))
    elif isinstance(value, (list, tuple, set, frozenset, collections.deque)):
        yield from ((str(place), part) for place, part in enumerate(value))
    elif isinstance(value, types.MethodType):
        yield "__self__", value.__self__
    elif isinstance(value, functools.partial):
        yield from (("func", value.func), ("args", value.args), ("keywords", value.keywords))
    if isinstance(value, nn.Module):
        yield from value._parameters.items()
        yield from value._buffers.items()
        yield from value._modules.items()
    own = getattr(value, "__dict__", None)
    if isinstance(own, dict):
        yield from ((key, part) for key, part in own.items() if key not in _OF_MODULES)
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if slot not in ("__dict__", "__weakref__") and hasattr(value, slot):
                yield slot, getattr(value, slot)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name without a value yet
        return None


def _copied(
    thing: Any, survey: _Survey, name: str, dtype: torch.dtype | None, device: torch.device | None
) -> Any:
    """A copy with its tensors in `dtype` (None: as they are) and on `device` (None: where they are)."""
    memo: dict[int, Any] = {}
    # Outside inference mode, since tensors made there cannot take part in a gradient.
    with torch.inference_mode(False), torch.no_grad():
        for _, value in survey.tensors:
            memo[id(value)] = _converted(value, dtype, device)
    if dtype is not None:
        memo.update({id(kind): dtype for kind in _CAST})
        memo.update({id(value): value.astype(np.float32) for value in survey.arrays})
    if device is not None:
        memo.update({id(place): device for place in survey.devices})
    try:
        copied = copy.deepcopy(thing, memo)
        if isinstance(copied, nn.Module):
            # sae-lens keeps records of dtype and device, which only these argument names update.
            wanted: dict[str, Any] = {"device": device, "dtype": dtype}
            copied = copied.to(**{key: value for key, value in wanted.items() if value is not None})
    except Exception as problem:  # a foreign object may raise anything when copied
        purpose = "cast to float32" if dtype is not None else f"moved to {device}"
        raise InterpretationError(
            f"{name}: a {type(thing).__name__} cannot be copied, to be {purpose}: {type(problem).__name__}: "
            f"{message_of(problem)}",
            fix=_TO_FLOAT32 if dtype is not None else f"give it on the device {device}",
        ) from problem
    if dtype is not None:
        _rename(copied)
    return copied


def _converted(value: Tensor, dtype: torch.dtype | None, device: torch.device | None) -> Tensor:
    """A tensor of the same values, or the tensor itself if nothing has to change."""
    wanted = dtype if dtype is not None and value.dtype in _CAST else value.dtype
    if value.dtype == wanted and (device is None or value.device.type == device.type):
        return value
    made = value.detach().to(device=device, dtype=wanted)
    return nn.Parameter(made, requires_grad=value.requires_grad) if isinstance(value, nn.Parameter) else made


def _rename(copied: Any) -> None:
    """Write float32 wherever the object or its settings name their type."""
    for part in (copied, *(getattr(copied, field, None) for field in _SETTINGS)):
        if isinstance(part, dict) and part.get("dtype") in _NAMES:
            part["dtype"] = "float32"
        elif isinstance(getattr(part, "__dict__", None), dict) and part.__dict__.get("dtype") in _NAMES:
            part.__dict__["dtype"] = "float32"


def _takes_float32(thing: Any, width: int, place: torch.device) -> bool:
    """Whether `encode` and `decode` run on a few float32 activations at `place`; results are not checked."""
    x: Float[Tensor, "1 2 d"] = torch.linspace(-1, 1, 2 * width).reshape(1, 2, width).to(place)
    try:
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            thing.decode(thing.encode(x).float())
    except Exception:  # of any kind: it is raised again, and reported, when the object is used
        return False
    return True
