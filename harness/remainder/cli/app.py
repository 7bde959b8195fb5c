"""A command line whose commands all have `--quiet` and `--verbose`."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, TypeVar

import typer

from remainder.base.progress import set_talk

__all__ = ["App", "QuietOption", "VerboseOption", "set_levels"]

_Command = TypeVar("_Command", bound=Callable[..., Any])

QuietOption = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Print the result and errors alone: no progress, no remarks on it."),
]
VerboseOption = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        help="Also print seconds of stages, warnings of libraries, and the traceback of an error.",
    ),
]


def set_levels(quiet: bool, verbose: bool) -> None:
    """Set how much is said beside results.

    Raises:
        typer.BadParameter: both are given.
    """
    if quiet and verbose:
        raise typer.BadParameter("--quiet and --verbose are both given")
    set_talk(int(verbose) - int(quiet))
    if verbose:
        warnings.simplefilter("default")


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
        if quiet or verbose:  # else it is as before the name of the command
            set_levels(quiet, verbose)
        return function(*args, **kwargs)

    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=option)
        for name, option in (("quiet", QuietOption), ("verbose", VerboseOption))
    ]
    signature = stated.replace(parameters=[*stated.parameters.values(), *options])
    call.__signature__ = signature  # type: ignore[attr-defined]
    call.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
    return call
