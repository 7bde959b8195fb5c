"""Run-time type checks of the package: beartype's and jaxtyping's, at the price of a few microseconds a call.

jaxtyping's own import hook binds the arguments of every call, and has beartype check them twice: before the
call, and again with what comes back. That took half of the time of the tests. Here

1. beartype wraps a function itself, so that one call checks parameters and result;
2. a frame for shapes is pushed only where a type has any;
3. a function is wrapped when it is first called: compiling takes a millisecond, and most are never called.

A function within a function is made anew at every call of the outer one. Compiling it each time would cost
more than it saves, so these are checked by jaxtyping, with one checker for all of the same types.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from functools import wraps
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import cache_from_source
from types import CodeType, FunctionType, ModuleType
from typing import Any, get_args, get_type_hints
from unittest.mock import patch

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, TypeCheckError, jaxtyped
from jaxtyping._storage import pop_shape_memo, push_shape_memo

__all__ = ["begin", "checked", "checker", "install"]

Function = Callable[..., Any]

CALLS = 20
"""How many calls of a function are checked in one test. A loop makes those that come after them, with the
same types: checking all of them took a fifth of the time of the tests."""

_part = 0
_beartype = beartype(conf=BeartypeConf(violation_type=TypeCheckError))
_compiled: dict[Any, Function] = {}


def install(package: str) -> None:
    """Check every function and dataclass of a package whose modules are not imported yet.

    Raises:
        RuntimeError: if it is imported already.
    """
    if package in sys.modules:
        raise RuntimeError(f"{package} is imported already: its types cannot be checked any more")
    sys.meta_path.insert(0, _Finder(package))


def checked(target: Any) -> Any:
    """A function, or a dataclass with its `__init__`, whose calls are checked."""
    if inspect.isclass(target):
        if is_dataclass(target) and "__init__" in vars(target):
            target.__init__ = checked(target.__init__)  # type: ignore[misc]
        return target
    compiled: Function | None = None
    checks, part = 0, -1

    @wraps(target)
    def check(*args: Any, **kwargs: Any) -> Any:
        nonlocal compiled, checks, part
        if part != _part:
            checks, part = 0, _part
        if checks >= CALLS:
            return target(*args, **kwargs)
        checks += 1
        if compiled is None:
            compiled = _checked(target)
        return compiled(*args, **kwargs)

    return check


def begin() -> None:
    """Begin the next test: every function's calls are counted anew."""
    global _part
    _part += 1


def _checked(function: FunctionType) -> Function:
    name = function.__qualname__
    if inspect.isgeneratorfunction(function) or ("<locals>" in name and not name.endswith(".__init__")):
        by_jaxtyping: Function = jaxtyped(typechecker=checker)(function)
        return by_jaxtyping
    hints = _hints(function)
    copy = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__, copy.__module__ = function.__kwdefaults__, function.__module__
    copy.__qualname__, copy.__annotations__ = function.__qualname__, hints
    compiled: Function = _beartype(copy)
    if not any(map(_has_shape, hints.values())):
        return compiled

    def with_shapes(*args: Any, **kwargs: Any) -> Any:
        push_shape_memo({})
        try:
            return compiled(*args, **kwargs)
        finally:
            pop_shape_memo()

    return with_shapes


def _hints(function: FunctionType) -> dict[str, Any]:
    """The types of a signature; without those that cannot be told, as of names imported for mypy alone."""
    found = {}
    for name, annotation in function.__annotations__.items():
        one = FunctionType((lambda: None).__code__, function.__globals__)
        one.__annotations__ = {name: annotation}
        try:
            found |= get_type_hints(one, include_extras=True)
        except (NameError, AttributeError):
            continue
    return found


def _has_shape(hint: Any) -> bool:
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return True
    # The parameters of a Callable stand in a list.
    parts = hint if isinstance(hint, list) else get_args(hint)
    return any(map(_has_shape, parts))


def checker(signature: Function) -> Function:
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

    compiled: Function | None = None

    @wraps(signature)
    def check(*args: Any, **kwargs: Any) -> Any:
        nonlocal compiled
        if compiled is None:
            if key not in _compiled:
                _compiled[key] = beartype(signature)
            compiled = _compiled[key]
        return compiled(*args, **kwargs)

    return check


class _Finder(PathFinder):
    """Finds the modules of one package, and loads them with `checked` on all that they define."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(  # type: ignore[override]
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.package and not fullname.startswith(f"{self.package}."):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> CodeType:  # type: ignore[override]
        tree = _Decorated().visit(ast.parse(data, path))
        code: CodeType = compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)
        return code

    def get_code(self, fullname: str) -> CodeType | None:
        # Compiled files of their own, so that nobody else runs them.
        def tagged(path: str, debug_override: bool | None = None, *, optimization: Any = None) -> str:
            return cache_from_source(path, optimization="checked1")

        with patch("importlib._bootstrap_external.cache_from_source", tagged):
            return super().get_code(fullname)


class _Decorated(ast.NodeTransformer):
    """Puts `checked` onto every function, innermost, and onto every class, outermost."""

    def visit_Module(self, node: ast.Module) -> ast.AST:
        self.generic_visit(node)
        after = [isinstance(one, ast.ImportFrom) and one.module == "__future__" for one in node.body]
        start = len(after) - after[::-1].index(True) if any(after) else 0
        node.body.insert(start, ast.parse("from typechecks import checked as _checked_").body[0])
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.decorator_list.append(ast.Name("_checked_", ast.Load()))
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self.generic_visit(node)
        node.decorator_list.insert(0, ast.Name("_checked_", ast.Load()))
        return node
