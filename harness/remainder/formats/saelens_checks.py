"""SAELens' configs looked through: every field is known, and no two of them disagree.

1. The fields against their table (`saelens_fields`); checkpoints of training are refused as a whole.
2. What the top computes with is not said otherwise in `metadata`, nor by a field's older name.
3. What SAELens would fill in by a default, and computes with, must stand there.
4. Where before version 6 `activation_fn_str` is topk, SAELens takes k from `activation_fn_kwargs`; it knows
   no tanh-relu any more, which is computed here.

Source: https://github.com/decoderesearch/SAELens, `saes/`, `config.py`,
`loading/pretrained_sae_loaders.py`; of versions 3.12 and 5.10 `sae.py`, `training/training_sae.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from remainder.base.files import brief
from remainder.errors import InterpretationError
from remainder.formats.fields import AGAIN, file_name
from remainder.formats.known import Ignore, Settings, Table
from remainder.formats.model_loading import check_options
from remainder.formats.saelens_fields import METADATA, OBJECT, RELEASE, first_of, table_of
from remainder.model.module_names import hook_of
from remainder.task.spec import Site, Task

__all__ = ["Looked", "TanhReLU", "look"]

_TRAINED = {"batchtopk": "jumprelu", "matryoshka_batchtopk": "jumprelu"}
"""Architectures that SAELens has in training alone, and as what it saves them at its end."""

_REQUIRED = {
    "topk": ("k",),
    "abstopk": ("k",),
    "temporal": (
        "n_heads",
        "n_attn_layers",
        "bottleneck_factor",
        "sae_diff_type",
        "kval_topk",
        "tied_weights",
    ),
    "matching_pursuit": ("residual_threshold", "max_iterations"),
}


class Looked(NamedTuple):
    """Facts of a config beyond what SAELens makes of it."""

    activation: nn.Module | None
    """The activation in place of the class's own."""
    centred: bool
    """Whether the model's writing weights were centred, if it has LayerNorm."""
    hooks: tuple[str, ...]
    """Hooks that it reads and rebuilds, as far as it is told; else those of the site."""
    warnings: tuple[str, ...]


class TanhReLU(nn.Module):
    """tanh(ReLU(h))."""

    def forward(self, h: Float[Tensor, "docs pos features"]) -> Float[Tensor, "docs pos features"]:
        return torch.tanh(torch.relu(h))


def look(
    config: Mapping[str, Any],
    task: Task,
    where: Path | str,
    ignore: Ignore | None = None,
    *,
    is_object: bool = False,
    is_release: bool = False,
) -> Looked:
    """Look through a config, as this module's text says.

    Args:
        config: as it stands in the file, or the fields of an object's `cfg`.
        task: whose site and model it must be of.
        where: it is from, for messages.
        ignore: fields to be passed over.
        is_object: whether an object computes, and not SAELens by these fields.
        is_release: whether sae-lens's reader of a release made it, of files that this reader does not see.

    Raises:
        InterpretationError: a field is not known, has a value that is not computed, or two do not agree.
    """
    if not is_object:
        _check_architecture(config, where)
    table = OBJECT if is_object else table_of(config)
    if is_release:
        table = Table({**table.lines, **RELEASE})
    settings = Settings(config, table, where, ignore)
    metadata = settings.block("metadata")
    settings.all()
    metadata.all()
    _check_twins(settings, metadata)
    _check_older_names(settings, metadata)
    hooks = _hooks(settings, metadata, task.site)
    centred = False
    for owner in (settings, metadata):
        options = owner.block("model_from_pretrained_kwargs")
        check_options(options, hooks, task.model)
        centred = centred or bool(options["center_writing_weights"])
    activation = None
    if not is_object:
        _require(settings)
        if settings["reshape_activations"] == "hook_z" and not any(hook.endswith("_z") for hook in hooks):
            raise settings.refuse(
                "reshape_activations", f"SAELens does that at hook_z, and this is {hooks[0]}"
            )
        activation = _activation(settings)
    notes = (*settings.warnings, *metadata.warnings, *_layer_warning(settings, metadata))
    return Looked(activation, centred, hooks, notes)


def _check_architecture(config: Mapping[str, Any], where: Path | str) -> None:
    """Refuse a checkpoint of training whose class computes otherwise than what SAELens saves in the end.

    Without it, its fields would be refused one by one, as ones of another architecture.
    """
    saved = _TRAINED.get(str(config.get("architecture")))
    if saved is not None:
        raise InterpretationError(
            f"{where}: architecture is {config['architecture']}, a checkpoint of training; SAELens saves it "
            f"as {saved} when training ends",
            fix="save it so: sae_lens.TrainingSAE.load_from_disk(FOLDER).save_inference_model(OTHER_FOLDER), "
            "and give that folder, with the activation_scaler.json of the first if it has one",
        )


def _require(settings: Settings) -> None:
    """Miss the fields that SAELens would fill in by a default of its class, and computes with."""
    architecture = settings["architecture"] or "standard"
    wanted = _REQUIRED.get(architecture, ())
    if settings["normalize_activations"] == "constant_scalar_rescale":
        wanted = (*wanted, "activation_normalization_factor")
    for name in wanted:
        is_elsewhere = name == "k" and "k" in settings.block("activation_fn_kwargs")
        if is_elsewhere and not _is_of_version_6(settings):
            continue
        if name not in settings.content:
            raise InterpretationError(
                f"{settings.where}: {name} is missing, which the architecture {architecture} computes with"
                + (": from version 6 on SAELens does not look into activation_fn_kwargs" * is_elsewhere),
                fix="write k at the top, as training had it" if is_elsewhere else AGAIN,
            )


def _check_twins(settings: Settings, metadata: Settings) -> None:
    """Refuse a `metadata` that says otherwise what the top computes with, or says of the place."""
    for name, line in settings.table.lines.items():
        if line.how == "harmless" or name not in settings.content or name == "sae_lens_version":
            continue
        here, there = settings.content[name], metadata.content.get(name)
        if there is not None and here is not None and here != there:
            raise InterpretationError(
                f"{settings.where}: {name} is {brief(here)}, and metadata.{name} {brief(there)}",
                fix="one of the two belongs to something else; take the config that training wrote",
            )
    if settings.table is OBJECT:
        return
    computing = {name for name, line in settings.table.lines.items() if line.how == "heeded"}
    for name in sorted(
        (computing - METADATA.lines.keys()) & metadata.content.keys() - settings.content.keys()
    ):
        raise metadata.refuse(name, f"SAELens computes with {name} at the top, and it does not stand there")


_OLDER = {
    "hook_point": "hook_name",
    "hook_point_layer": "hook_layer",
    "hook_point_head_index": "hook_head_index",
}


def _check_older_names(settings: Settings, metadata: Settings) -> None:
    """A field and its older name do not say two things."""
    fields = {**settings.content, **metadata.content}
    for older, name in _OLDER.items():
        if fields.get(older) is not None and fields.get(name) not in (None, fields[older]):
            raise InterpretationError(
                f"{settings.where}: {name} is {brief(fields[name])}, and {older}, its older name, "
                f"{brief(fields[older])}",
                fix="one of the two belongs to something else; take the config that training wrote",
            )


def _layer_warning(settings: Settings, metadata: Settings) -> tuple[str, ...]:
    """A warning where the number of the block is not that in the hook's name, which counts."""
    fields = {**settings.content, **metadata.content}
    hook = first_of(fields, "hook_name", "hook_point")
    name = next((one for one in ("hook_layer", "hook_point_layer") if fields.get(one) is not None), None)
    if name is None or not isinstance(hook, str):
        return ()
    block = re.match(r"blocks\.(\d+)\.", hook_of(hook))
    if block is None or fields[name] == int(block[1]):
        return ()
    return (
        f"{file_name(settings.where)}: {name} is {brief(fields[name])}, and the hook is {hook}; this counts.",
    )


def _hooks(settings: Settings, metadata: Settings, site: Site) -> tuple[str, ...]:
    """Hooks that it reads and rebuilds; where these are not told, those of the task."""
    named = [
        hook_of(found)
        for name in ("hook_name", "hook_point", "hook_name_out")
        for found in (metadata.content.get(name), settings.content.get(name))
        if isinstance(found, str)
    ]
    return tuple(dict.fromkeys(named)) or (site.hook_in, site.hook_out)


def _activation(settings: Settings) -> nn.Module | None:
    """The activation that `activation_fn_str` asks for, where the class of the architecture has another.

    Raises:
        InterpretationError: it cannot be computed, or does not fit the architecture.
    """
    name = "activation_fn" if "activation_fn" in settings else "activation_fn_str"
    both = {settings[each] for each in ("activation_fn", "activation_fn_str") if each in settings}
    if len(both) > 1:
        raise settings.refuse("activation_fn", f"activation_fn_str is {settings['activation_fn_str']}")
    kind = settings[name]
    kwargs = settings.block("activation_fn_kwargs")
    kwargs.all()
    k, architecture = kwargs["k"], settings["architecture"] or "standard"
    if kind == "topk" or (kind is None and architecture in ("topk", "abstopk")):
        _check_k(settings, kwargs, name, architecture)
        return None
    if k is not None:
        raise kwargs.refuse("k", f"it is of topk, and {name} is {brief(kind)}")
    if kind == "relu" and architecture in ("topk", "abstopk"):
        raise settings.refuse(name, f"architecture is {architecture}")
    if kind in (None, "relu"):
        return None
    if kind == "tanh-relu" and architecture == "standard":
        return TanhReLU()
    raise settings.refuse(name, "computed are relu, and of the architecture standard tanh-relu and topk")


def _check_k(settings: Settings, kwargs: Settings, name: str, architecture: str) -> None:
    """The k of a top-k SAE stands at one place, or at two that agree; SAELens must take it from there."""
    k, own = kwargs["k"], settings.content.get("k")
    if architecture not in ("standard", "topk", "abstopk"):
        raise settings.refuse(name, f"architecture is {architecture}")
    if settings.content.get(name) == "topk" and architecture == "standard" and k is None:
        raise InterpretationError(
            f"{settings.where}: {name} is topk, and activation_fn_kwargs has no k: how many latents are "
            "active is not told",
            fix='write it as training had it: "activation_fn_kwargs": {"k": 32}',
        )
    if k is not None and own is not None and k != own:
        raise kwargs.refuse("k", f"k is {brief(own)}")
    if settings.content.get(name) == "topk" and architecture == "standard" and _is_of_version_6(settings):
        raise settings.refuse(name, "from version 6 on that is the architecture topk, and SAELens reads ReLU")


def _is_of_version_6(settings: Settings) -> bool:
    """Whether a config is of version 6 or later, by the field that SAELens goes by."""
    stated = settings["sae_lens_version"] or settings.block("metadata")["sae_lens_version"]
    head = str(stated or "0").split(".")[0]
    if not head.isdigit():
        raise InterpretationError(
            f"{settings.where}: sae_lens_version is {brief(stated)}; expected a version such as 6.0.0",
            fix=AGAIN,
        )
    return int(head) >= 6
