"""The commands `remainder cache ...`: how large the cache is, and how room is made in it."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from remainder.base.wrapping import fill
from remainder.cli.app import App
from remainder.cli.complete import parts_of_cache
from remainder.errors import AssetError
from remainder.report.layout import WIDTH, require_format

__all__ = ["cache"]

cache = App(
    help="The cache of models, texts and activations: how large it is, and how it is cleared.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@cache.command()
def size(
    format: Annotated[str, typer.Option("--format", metavar="FORMAT", help="table or json.")] = "table",
) -> None:
    """Show where the cache is, and how large each part of it."""
    from remainder.base.housekeeping import PARTS, parts
    from remainder.base.paths import cache_root

    require_format(format, ("table", "json"))
    found = parts()
    if format == "json":
        sizes = {part.name: {"entries": part.entries, "bytes": part.bytes} for part in found}
        print(json.dumps({"place": str(cache_root()), "parts": sizes}, indent=1))
        return
    print(f"{cache_root()}\n")
    for part in found:
        start = f"{part.name:<16}{part.bytes / 1e6:>10,.1f} MB  "
        print(fill(start + PARTS[part.name].holds, WIDTH, hanging=" " * len(start)))
    print(f"{'in all':<16}{sum(part.bytes for part in found) / 1e6:>10,.1f} MB")


@cache.command()
def clear(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PART]...",
            help="Parts, as `cache size` names them.",
            autocompletion=parts_of_cache,
        ),
    ] = None,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Every part whose content is made or fetched again when it is needed."),
    ] = False,
) -> None:
    """Remove parts of the cache; what another process makes, and activations that it reads, are left."""
    from remainder.base.housekeeping import clear as clear_parts
    from remainder.base.housekeeping import parts
    from remainder.base.progress import errors

    if bool(names) == everything:
        held = ", ".join(part.name for part in parts()) or "nothing"
        raise AssetError(
            "parts are named, and --all is given too" if names else "no part of the cache is named",
            fix=f"name parts ({held}), or give --all, for all that is made or fetched again",
        )
    freed, in_use = clear_parts(names or ())
    print(f"removed: {freed / 1e6:,.1f} MB")
    for entry in in_use:
        errors.print(f"! {entry} is in use by another process, and was left", markup=False)
