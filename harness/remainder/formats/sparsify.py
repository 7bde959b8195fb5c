"""sparsify (EleutherAI): a folder with `cfg.json` and `sae.safetensors`, named after the module it is of.

1. `cfg.json`: d_in, num_latents (0: d_in · expansion_factor), k, activation (topk or groupmax), transcode,
   skip_connection.
2. The place: the folder's name, as in `layers.15` (the output of that block) or `layers.15.mlp`
   (`remainder.model.module_names`). A sparse autoencoder is of the module's own output, whatever the block
   does with it afterwards; a transcoder reads its input and rebuilds its output.
3. `sae.safetensors`: encoder.weight and W_dec [num_latents d_in], encoder.bias, b_dec, W_skip [d_in d_in].
4. b_dec is subtracted before encoding unless cfg.json says that it is a transcoder; early versions said so in
   the config of the run alone, and subtracted it. `normalize_decoder` is about training: the stored W_dec is
   used as it is.

Source: https://github.com/EleutherAI/sparsify, `sparse_coder.py`, `fused_encoder.py`, `config.py`,
`trainer.py`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from torch import nn

from remainder.base.files import brief, present
from remainder.errors import InterpretationError
from remainder.formats.coder import GroupMax, TopK, make_coder
from remainder.formats.context import context_warnings
from remainder.formats.fields import count, flag, text
from remainder.formats.known import Ignore, Rest, Settings, Table, harmless, heeded, only, plain
from remainder.formats.places import (
    HookPlace,
    Loaded,
    MisfitError,
    check_count,
    check_model,
    check_no_skip,
    check_width,
    place_at,
)
from remainder.formats.tensors import Layout, missing_weights, read_json, read_tensors
from remainder.model.module_names import module_named
from remainder.task.spec import Task

__all__ = ["CONFIG", "FIELDS", "RUN", "RUN_FIELDS", "WEIGHTS", "files", "found_in", "load"]

CONFIG, WEIGHTS, RUN = "cfg.json", "sae.safetensors", "config.json"

FIELDS = Table(
    {
        "d_in": heeded("must be the width of the task's site and of the weights", plain),
        "num_latents": heeded(
            "must be the number of latents of the weights; 0 or missing: d_in times expansion_factor", plain
        ),
        "expansion_factor": heeded("tells the number of latents where num_latents does not", plain),
        "k": heeded("the number of active latents, or of groups", count),
        "activation": heeded("topk or groupmax", plain, ignorable=True),
        "signed": heeded("accepted if false: what is below zero is not active", flag, ignorable=True),
        "skip_connection": heeded("whether W_skip is read", flag),
        "transcode": heeded("what it reads, and whether b_dec is subtracted before encoding", flag),
        **harmless("about training: the stored decoder is used as it is", "normalize_decoder"),
        **harmless("a loss of training", "multi_topk"),
        **harmless("which code multiplies, with the same result", "naive_decoder"),
        "embed_skip": only("a path from the embedding past the codes is not read", False),
        "gram_lookup": only("what a table of n-grams adds is not read", False),
        **harmless("of gram_lookup, which is off", "lookup_max_order", "gram_table_hash"),
    }
)
"""Fields of cfg.json, beside the weights of a module."""

RUN_FIELDS = Table(
    {
        "model": heeded("must be the task's model", text),
        "transcode": heeded("must be that of cfg.json; counts where this has none", plain, ignorable=True),
        "ctx_len": heeded("compared with the task's windows", plain),
    },
    Rest("harmless", "it describes the training run"),
)
"""Fields of config.json, one folder up."""


def found_in(path: Path) -> bool:
    """Whether `path` is a folder that sparsify wrote for one module."""
    if present(path / WEIGHTS):
        return True
    if not present(path / CONFIG):
        return False
    config = read_json(path / CONFIG)
    return "d_sae" not in config and {"k", "expansion_factor"} <= config.keys()


def files(path: Path) -> list[Path]:
    """Files whose content can change a score; these are hashed."""
    return [path / name for name in (CONFIG, WEIGHTS) if present(path / name)]


def load(path: Path, task: Task, ignore: Ignore | None = None) -> Loaded:
    """The SAE or transcoder in a folder, for the task's site.

    Args:
        path: of the folder.
        task: whose site and model it must be of.
        ignore: fields to be passed over.

    Raises:
        InterpretationError: naming the file, what was found and what was expected.
    """
    where = path / CONFIG
    config = Settings(read_json(where), FIELDS, where, ignore)
    config.all()
    transcode = bool(config["transcode"])
    is_stated, notes = _run(path, config.content.get("transcode"), task, ignore)
    place = _place(path, transcode or is_stated, task)
    check_width(config["d_in"], task.site, where)
    latents = _latents(config, task.site.width)
    activation = _activation(config, config["k"], latents, where)
    if not present(path / WEIGHTS):
        raise missing_weights(path, WEIGHTS, "give the folder that sparsify saved for one module")
    shapes: dict[str, tuple[str | int, ...]] = {
        "encoder.weight": ("num_latents", "d_in"),
        "encoder.bias": ("num_latents",),
        "W_dec": ("num_latents", "d_in"),
        "b_dec": ("d_in",),
    }
    if config["skip_connection"]:
        check_no_skip(task.site, place.reads, where)
        shapes["W_skip"] = ("d_in", "d_in")
    says = f"{CONFIG} says d_in = {config['d_in']}, num_latents = {latents}"
    sizes = {"d_in": config["d_in"], "num_latents": latents}
    found = read_tensors(path / WEIGHTS, Layout(shapes, sizes, says))
    weights = {"W_enc": found.pop("encoder.weight").T, "b_enc": found.pop("encoder.bias"), **found}
    place = place._replace(warnings=place.warnings + notes)
    return Loaded(make_coder(weights, activation, centred=not transcode), *place)


def _run(path: Path, own: bool | None, task: Task, ignore: Ignore | None) -> tuple[bool, tuple[str, ...]]:
    """Read the config of the whole run, if it lies above the folders of its modules.

    Args:
        own: `transcode` of the module's own config; None, if it has no such field.

    Returns:
        Whether the run alone says that it is a transcoder, and what is to be told.

    Raises:
        InterpretationError: if it was made for another model, or is of another kind.
    """
    notes: tuple[str, ...] = ()
    is_stated = False
    for folder in dict.fromkeys((_of_module(path.absolute()).parent, _of_module(path.resolve()).parent)):
        above = folder / RUN
        if above.is_file():
            run = Settings(read_json(above), RUN_FIELDS, above, ignore)
            named = check_model(run["model"], task.model, run.where)
            is_stated = is_stated or _is_transcoder(run, own)
            notes = notes or named + context_warnings(run.all(), task, above, length="ctx_len")
    return is_stated, notes


def _is_transcoder(run: Settings, own: bool | None) -> bool:
    """Whether the settings of the whole run say so, and those of the module do not.

    Early versions said only there whether it is a transcoder, and subtracted b_dec all the same; so does
    sparsify today with a config that lacks `transcode`.
    """
    stated = run["transcode"]
    if stated is None or stated is own:
        return False
    if own is None and isinstance(stated, bool):
        return stated
    raise run.refuse("transcode", f"{CONFIG} of the module says {str(own).lower()}")


def _latents(config: Settings, width: int) -> int:
    """The number of latents, by num_latents or the expansion factor."""
    if config["num_latents"]:
        return count(config.content, "num_latents", config.where)
    return width * count({"expansion_factor": config["expansion_factor"]}, "expansion_factor", config.where)


def _activation(config: Settings, k: int, latents: int, where: Path) -> nn.Module:
    kind: Any = "topk" if config["activation"] is None else config["activation"]
    signed = config["signed"]
    if kind not in ("topk", "groupmax") or signed:
        what = "signed is true" if signed else f"activation is {brief(kind)}"
        ignoring = config.refuse("signed" if signed else "activation", "").fix
        raise InterpretationError(
            f"{where}: {what}; known are topk and groupmax of what is above zero",
            fix="score the object itself: give it encode and decode, then remainder.evaluate(task, object); "
            f"{ignoring}",
        )
    check_count(k, latents, where, "k")
    if kind == "groupmax" and latents % k:
        raise InterpretationError(
            f"{where}: k is {k}, which does not divide {latents} latents",
            fix="take the cfg.json that training wrote",
        )
    return TopK(k) if kind == "topk" else GroupMax(k)


def _place(path: Path, transcode: bool, task: Task) -> HookPlace:
    """The place that the folder's name states; a link counts by its own name, since it may lead to a store.

    Raises:
        MisfitError: if it names another place, or none: nothing else tells where it was made.
    """
    names = [_of_module(path.absolute()).name]
    if path.resolve() != path.absolute():
        names.append(_of_module(path.resolve()).name)
    for name in names:
        if (module := module_named(name)) is not None:
            return place_at((module.reads if transcode else module.gives, module.gives), task, path)
    raise MisfitError(
        f"{path}: a folder of sparsify is called after the module that it is of, and {names[0]} is none, so "
        f"it cannot be told whether it was made for the task's site {task.site.hook_out}",
        fix="call it as sparsify did: layers.15 if it is of the output of that block, layers.15.mlp, or "
        "layers.15.attn",
    )


def _of_module(place: Path) -> Path:
    """The folder of a module: where a run has several seeds, each has its own folder in it."""
    place = Path(os.path.normpath(place))
    return place.parent if re.fullmatch(r"seed\d+", place.name) else place
