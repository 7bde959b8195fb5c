"""The settings of an object from a notebook, whatever kind of thing they are, as a file would have them.

`config_of` gives the fields of `cfg` as a dict: of a dict or another mapping, a dataclass, a class of
pydantic or attrs, a named tuple, a namespace, or an object with attributes. `plain` makes of a number of
numpy or of a tensor with one value what JSON would hold: 8 of `numpy.int64(8)`, and so within lists and
mappings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from remainder.base.messages import message_of
from remainder.errors import InterpretationError

__all__ = ["config_of", "plain"]

_NESTED = ("metadata", "model_from_pretrained_kwargs")  # fields of sae-lens whose own fields are read
_DEEPEST = 4  # levels of lists and mappings; one may hold itself
_LONGEST = 100  # entries of an array that can be a setting
_FIXES = "give cfg as a dict of plain values, or correct that attribute"


def config_of(thing: Any, name: str) -> dict[str, Any]:
    """The fields of an object's `cfg`; none if it has no `cfg`.

    Args:
        thing: an object from a notebook.
        name: of the object, for messages.

    Raises:
        InterpretationError: a field cannot be read.
    """
    return _with_nested(getattr(thing, "cfg", None), name)


def _with_nested(config: Any, name: str, within: tuple[str, ...] = ()) -> dict[str, Any]:
    """Plain values, and the fields of those that hold settings themselves, each kind once."""
    found = {field: plain(value) for field, value in _fields(config, name).items()}
    for field in _NESTED:
        value = found.get(field)
        is_one = value is not None and not isinstance(value, (str, int, float, list, tuple))
        if is_one and field not in within:
            found[field] = _with_nested(value, name, (*within, field))
    return found


def plain(value: Any, depth: int = 0) -> Any:
    """A number, a truth value or a short array of numpy or torch as Python has it, within others too.

    Anything else is returned unchanged, as is everything nested deeper than settings are.
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.ndim <= 1 and value.size <= _LONGEST and value.dtype != object:
        return value.tolist()
    if isinstance(value, Tensor) and value.ndim == 0 and not value.is_meta:
        return value.detach().item()
    if depth >= _DEEPEST:
        return value
    if type(value) in (list, tuple):
        return type(value)(plain(part, depth + 1) for part in value)
    if type(value) is dict:
        return {field: plain(part, depth + 1) for field, part in value.items()}
    return value


def _fields(config: Any, name: str) -> dict[str, Any]:
    """Names and values of a thing that holds settings."""
    if config is None:
        return {}
    try:
        return _read(config)
    except Exception as problem:  # of a property, or of a mapping whose value is missing
        raise InterpretationError(
            f"{name}: its cfg, a {type(config).__name__}, cannot be read: {type(problem).__name__}: "
            f"{message_of(problem)}",
            fix=_FIXES,
        ) from problem


def _read(config: Any) -> dict[str, Any]:
    if isinstance(config, Mapping):
        return {str(field): config[field] for field in config}
    declared = getattr(type(config), "model_fields", None)  # of pydantic, which checks what it dumps
    if isinstance(declared, Mapping):
        return {
            **(getattr(config, "model_extra", None) or {}),
            **{one: getattr(config, one) for one in declared},
        }
    for method in ("to_dict", "_asdict"):
        if not isinstance(config, type) and callable(getattr(config, method, None)):
            found = getattr(config, method)()
            if isinstance(found, Mapping):
                return {str(field): found[field] for field in found}
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    # Of other objects (and classes) all attributes, since a class may hold the values, or slots do.
    names = [field for field in dir(config) if not field.startswith("_")]
    return {field: value for field in names if not callable(value := getattr(config, field))}
