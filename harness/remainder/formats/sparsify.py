"""sparsify (EleutherAI): a folder with `cfg.json` and `sae.safetensors`, named after the module it is of.

1. `cfg.json`: d_in, num_latents (0: d_in · expansion_factor), k, activation (topk or groupmax), transcode,
   skip_connection.
2. The place: the folder's name, as in `layers.15` (the output of that block) or `layers.15.mlp`. A sparse
   autoencoder is of the module's output; a transcoder reads its input and rebuilds its output.
3. `sae.safetensors`: encoder.weight and W_dec [num_latents d_in], encoder.bias, b_dec, W_skip [d_in d_in].
4. b_dec is subtracted before encoding unless it is a transcoder. `normalize_decoder` is about training: the
   stored W_dec is used as it is.

Source: https://github.com/EleutherAI/sparsify, `sparse_coder.py`, `fused_encoder.py`, `config.py`,
`trainer.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import nn

from remainder.errors import InterpretationError
from remainder.files import brief, present
from remainder.formats.coder import GroupMax, TopK, make_coder
from remainder.formats.fields import count, flag, text
from remainder.formats.known import Ignore, Rest, Settings, Table, harmless, heeded, plain
from remainder.formats.places import (
    Loaded,
    MisfitError,
    check_count,
    check_model,
    check_no_skip,
    check_width,
    reads_at,
)
from remainder.formats.tensors import Layout, missing_weights, read_json, read_tensors
from remainder.interpretation import Reads
from remainder.task import Task

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
    }
)
"""Of cfg.json, beside the weights of a module."""

RUN_FIELDS = Table(
    {
        "model": heeded("must be the task's model", text),
        "transcode": heeded("must be that of cfg.json", plain, ignorable=True),
    },
    Rest("harmless", "it describes the training run"),
)
"""Of config.json, one folder up."""

_BLOCK = r"(?:.*\.)?(?:layers|h)[._](\d+)"  # of Llama, GPT-NeoX …, and of GPT-2
_MODULES = (
    (rf"{_BLOCK}", "blocks.{}.hook_resid_pre", "blocks.{}.hook_resid_post"),
    (rf"{_BLOCK}\.mlp", "blocks.{}.mlp.hook_in", "blocks.{}.mlp.hook_out"),
    (rf"{_BLOCK}\.(?:self_attn|attention|attn)", "blocks.{}.attn.hook_in", "blocks.{}.attn.hook_out"),
)


def found_in(path: Path) -> bool:
    """Whether `path` is such a folder."""
    if present(path / WEIGHTS):
        return True
    if not present(path / CONFIG):
        return False
    config = read_json(path / CONFIG)
    return "d_sae" not in config and {"k", "expansion_factor"} <= config.keys()


def files(path: Path) -> list[Path]:
    """What can move a number."""
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
    transcode = bool(config["transcode"])
    above = path.resolve().parent / RUN  # of the whole run, beside the folders of its modules
    if above.is_file():
        _check_run(Settings(read_json(above), RUN_FIELDS, above, ignore), transcode, task)
    reads = _reads(path, transcode, task)
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
        check_no_skip(task.site, reads, where)
        shapes["W_skip"] = ("d_in", "d_in")
    says = f"{CONFIG} says d_in = {config['d_in']}, num_latents = {latents}"
    sizes = {"d_in": config["d_in"], "num_latents": latents}
    found = read_tensors(path / WEIGHTS, Layout(shapes, sizes, says))
    weights = {"W_enc": found.pop("encoder.weight").T, "b_enc": found.pop("encoder.bias"), **found}
    return Loaded(make_coder(weights, activation, centred=not transcode), reads)


def _check_run(run: Settings, transcode: bool, task: Task) -> None:
    """Model and kind, as the settings of the whole run have them.

    Early versions said only there whether it is a transcoder, and subtracted b_dec all the same.
    """
    check_model(run["model"], task.model, run.where)
    if run["transcode"] is not None and run["transcode"] is not transcode:
        raise run.refuse("transcode", f"{CONFIG} of the module says {str(transcode).lower()}, or nothing")


def _latents(config: Settings, width: int) -> int:
    """By num_latents, or by the expansion factor."""
    if config["num_latents"]:
        return count(config.content, "num_latents", config.where)
    return width * count({"expansion_factor": config["expansion_factor"]}, "expansion_factor", config.where)


def _activation(config: Settings, k: int, latents: int, where: Path) -> nn.Module:
    kind: Any = "topk" if config["activation"] is None else config["activation"]
    signed = config["signed"]
    if kind not in ("topk", "groupmax") or signed:
        what = "signed is true" if signed else f"activation is {brief(kind)}"
        raise InterpretationError(
            f"{where}: {what}; known are topk and groupmax of what is above zero",
            fix="score the object itself: give it encode and decode, then remainder.evaluate(task, object)",
        )
    check_count(k, latents, where, "k")
    if kind == "groupmax" and latents % k:
        raise InterpretationError(
            f"{where}: k is {k}, which does not divide {latents} latents",
            fix="take the cfg.json that training wrote",
        )
    return TopK(k) if kind == "topk" else GroupMax(k)


def _reads(path: Path, transcode: bool, task: Task) -> Reads:
    """By the folder's name.

    Raises:
        MisfitError: if it names another place, or none: nothing else tells where it was made.
    """
    place = path.resolve()
    # Where a run has several seeds, each has its folder in that of the module.
    name = place.parent.name if re.fullmatch(r"seed\d+", place.name) else place.name
    for pattern, source, target in _MODULES:
        if match := re.fullmatch(pattern, name):
            out = target.format(match[1])
            return reads_at((source.format(match[1]) if transcode else out, out), task.site, path)
    raise MisfitError(
        f"{path}: a folder of sparsify is called after the module that it is of, and {name} is none, so it "
        f"cannot be told whether it was made for the task's site {task.site.hook_out}",
        fix="call it as sparsify did: layers.15 if it is of the output of that block, layers.15.mlp, or "
        "layers.15.attn",
    )
