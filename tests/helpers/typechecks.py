"""Run-time type checks of the package: beartype's, each signature compiled once and only when it is called.

jaxtyping's import hook asks for two checkers of every function each time that its `def` is run. Compiling
them takes milliseconds: for all functions of the package that is seconds in every worker, and a function
within a function, which is made anew at every call of the outer one, would pay it every time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from beartype import beartype

__all__ = ["checker"]

_compiled: dict[Any, Callable[..., Any]] = {}


def checker(signature: Callable[..., Any]) -> Callable[..., Any]:
    """What `beartype` makes of a function of jaxtyping's, which has a signature and next to no body.

    Functions of one name whose parameters have the same types are checked by the same checker.
    """
    code = signature.__code__
    key = (
        signature.__module__,
        signature.__qualname__,
        code.co_code,
        code.co_varnames,
        code.co_argcount,
        code.co_posonlyargcount,
        code.co_kwonlyargcount,
        code.co_flags,
        signature.__kwdefaults__ and tuple(signature.__kwdefaults__),
        signature.__defaults__ and len(signature.__defaults__),
        tuple(signature.__annotations__.items()),
    )

    compiled: Callable[..., Any] | None = None

    @wraps(signature)
    def check(*args: Any, **kwargs: Any) -> Any:
        nonlocal compiled
        if compiled is None:
            if key not in _compiled:
                _compiled[key] = beartype(signature)
            compiled = _compiled[key]
        return compiled(*args, **kwargs)

    return check
