"""Gemma Scope: a folder with `params.npz`, the JumpReLU SAE of one place at one width and sparsity.

1. Arrays: W_enc [d_in d_sae], W_dec [d_sae d_in], b_enc [d_sae], threshold [d_sae], b_dec [d_in].
2. h = x W_enc + b_enc; codes = ReLU(h) where h is above its threshold; x̂ = codes W_dec + b_dec.
3. The place is in no file, but in the path: a repository `gemma-scope-MODEL-pt-res`, `-mlp` or `-att`, and in
   it `layer_N/width_…/average_l0_…` or `embedding/…`; N of `res` is the block that the residual stream
   leaves. A link is judged by its own path, and by where it leads if that tells nothing.
4. A transcoder has the same arrays. That of `gemma-scope-2b-pt-transcoders` reads `ln2.hook_normalized`, the
   MLP's input before the norm's gain, and rebuilds `hook_mlp_out`. Where a path says transcoder, crosscoder
   or `clt` and it is none of these, it is refused: never is one read as an SAE.

Source: https://arxiv.org/abs/2408.05147, section 2.2, and https://huggingface.co/google/gemma-scope; of the
transcoders' hooks: sae-lens, `loading/pretrained_sae_loaders.py`, and circuit-tracer's list for Gemma 2.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from remainder.base.files import present
from remainder.errors import InterpretationError
from remainder.formats.coder import JumpReLU, make_coder
from remainder.formats.known import Ignore, Settings, Table, heeded, plain
from remainder.formats.places import Loaded, MisfitError, check_width, place_at, place_untold
from remainder.formats.tensors import UNREADABLE, require_weights
from remainder.task.spec import Task

__all__ = ["FIELDS", "WEIGHTS", "files", "found_in", "load"]

WEIGHTS = "params.npz"

FIELDS = Table(
    {
        "W_enc": heeded("the encoder, [d_in, d_sae]", plain),
        "W_dec": heeded("the decoder, [d_sae, d_in]", plain),
        "b_enc": heeded("its bias", plain),
        "threshold": heeded("of each latent, for JumpReLU", plain),
        "b_dec": heeded("the decoder's bias; it is not subtracted before encoding", plain),
    }
)
"""The arrays of params.npz."""

_SHAPES: dict[str, tuple[str, ...]] = {
    "W_enc": ("d_in", "d_sae"),
    "W_dec": ("d_sae", "d_in"),
    "b_enc": ("d_sae",),
    "threshold": ("d_sae",),
    "b_dec": ("d_in",),
}
_HOOKS = {
    "res": ("blocks.{}.hook_resid_post",) * 2,
    "mlp": ("blocks.{}.hook_mlp_out",) * 2,
    "att": ("blocks.{}.attn.hook_z",) * 2,
    "transcoders": ("blocks.{}.ln2.hook_normalized", "blocks.{}.hook_mlp_out"),
}
_REPOSITORY = re.compile(r"gemma-scope-[\w.]+-[pi]t(?:-(res|mlp|att|transcoders)(?![\w]))?")
_NO_SAE = re.compile(r"transcoder|crosscoder|(?<![a-z])clt(?![a-z])", re.IGNORECASE)
_NEAR = 5
"""Folders of a path outside of Gemma Scope's repositories whose names are taken to speak of the file."""


def found_in(path: Path) -> bool:
    """Whether `path` is such a folder."""
    return present(path / WEIGHTS)


def files(path: Path) -> list[Path]:
    """Files whose content can change a score; these are hashed."""
    return [path / WEIGHTS]


def load(path: Path, task: Task, ignore: Ignore | None = None) -> Loaded:
    """The SAE in a folder, for the task's site.

    Args:
        path: of the folder.
        task: whose site it must be of.
        ignore: arrays to be passed over.

    Raises:
        InterpretationError: naming the file, what was found and what was expected.
    """
    where = path / WEIGHTS
    hooks = _hooks(path)
    if hooks is None:
        lacks = "no repository of Gemma Scope and layer in its path"
        place = place_untold(task, where, lacks)
    else:
        place = place_at(hooks, task, where)
    arrays = _read(where, ignore)
    check_width(arrays["W_enc"].shape[0], task.site, where)
    threshold = arrays.pop("threshold")
    return Loaded(make_coder(arrays, JumpReLU(threshold), centred=False), *place)


def _read(where: Path, ignore: Ignore | None) -> dict[str, Tensor]:
    require_weights(where)
    try:
        # Without pickles: an array of objects is refused, and nothing of it executed.
        with where.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (*UNREADABLE, MemoryError) as problem:
        raise InterpretationError(
            f"{where} is no readable file of arrays: {problem}",
            fix="fetch it again; it may be truncated, and arrays of objects are never loaded",
        ) from problem
    if missing := sorted(_SHAPES.keys() - arrays.keys()):
        raise InterpretationError(
            f"{where} holds {', '.join(sorted(arrays)) or 'nothing'}; {', '.join(missing)} is missing",
            fix="give the folder of one SAE of Gemma Scope",
        )
    arrays = Settings(arrays, FIELDS, where, ignore).all()
    sizes = dict(zip(("d_in", "d_sae"), arrays["W_enc"].shape, strict=False))
    for name, axes in _SHAPES.items():
        array = arrays[name]
        if array.shape != tuple(sizes.get(axis, -1) for axis in axes):
            raise InterpretationError(
                f"{where}: {name} has shape {array.shape}, and W_enc {arrays['W_enc'].shape}",
                fix=f"{name} must be [{', '.join(axes)}], and W_enc [d_in, d_sae]",
            )
        if not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
            raise InterpretationError(
                f"{where}: {name} ({array.dtype}) holds what is no finite number", fix="fetch it again"
            )
    return {name: torch.from_numpy(arrays[name].astype(np.float32, copy=False)) for name in _SHAPES}


def _hooks(path: Path) -> tuple[str, str] | None:
    """Hooks that it reads and rebuilds, by a path in Gemma Scope's repositories; None for other paths.

    Raises:
        MisfitError: if the path says that it is no SAE, and not which hooks it is of.
    """
    own = Path(os.path.normpath(path.absolute()))
    for folder in dict.fromkeys((own, path.resolve())):
        if (hooks := _told_by(folder)) is not None:
            return hooks
    return None


def _told_by(folder: Path) -> tuple[str, str] | None:
    *_, repository = [None, *_REPOSITORY.finditer(folder.as_posix())]
    kind, inside = None, "/".join(folder.parts[-_NEAR:])
    if repository is not None:
        kind, inside = repository[1], folder.as_posix()[repository.start() :]
    # `layer_12` of the first Gemma Scope, `layer_12_width_16k_l0_small` of the second.
    layer = re.findall(r"(?<![a-z])layer_(\d+)", inside)
    if _NO_SAE.search(inside) and not (kind == "transcoders" and layer):
        raise MisfitError(
            f"{folder}: by its path it is a transcoder or crosscoder, which reads another place than it "
            "rebuilds; from arrays alone it cannot be told which",
            fix="give the release of sae-lens that it is of (hub:RELEASE:SAE_ID), or save it with sae-lens; "
            "an SAE belongs into a folder called after its repository, such as gemma-scope-2b-pt-res",
        )
    if kind == "res" and re.search(r"/embedding(?:/|$)", inside):
        return "hook_embed", "hook_embed"
    if kind is None or not layer:
        return None
    source, target = _HOOKS[kind]
    return source.format(layer[-1]), target.format(layer[-1])
