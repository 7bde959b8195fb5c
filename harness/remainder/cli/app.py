"""A command line whose commands all have `--quiet` and `--verbose`."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, TypeVar

import typer

from remainder.base.progress import set_talk

__all__ = ["App"]

_Command = TypeVar("_Command", bound=Callable[..., Any])

_LEVELS = {
    "quiet": ("-q", "Print the result and errors alone: no progress, no remarks on it."),
    "verbose": ("-v", "Also print seconds of stages, warnings of libraries, and the traceback of an error."),
}


class App(typer.Typer):
    """A `typer.Typer` that adds the two options to every command."""

    def command(self, *args: Any, **kwargs: Any) -> Callable[[_Command], _Command]:
        """Register a command; see `typer.Typer.command`."""
        add = super().command(*args, **kwargs)

        def register(function: _Command) -> _Command:
            add(_with_levels(function))
            return function

        return register


def _with_levels(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with two more options, which are taken care of before it is called."""
    stated = inspect.signature(function, eval_str=True)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        quiet, verbose = kwargs.pop("quiet"), kwargs.pop("verbose")
        if quiet and verbose:
            raise typer.BadParameter("--quiet and --verbose are both given")
        set_talk(int(verbose) - int(quiet))
        if verbose:
            warnings.simplefilter("default")
        return function(*args, **kwargs)

    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False,
            annotation=Annotated[bool, typer.Option(f"--{name}", short, help=text)],
        )
        for name, (short, text) in _LEVELS.items()
    ]
    signature = stated.replace(parameters=[*stated.parameters.values(), *options])
    call.__signature__ = signature  # type: ignore[attr-defined]
    call.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
    return call
