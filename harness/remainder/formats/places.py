"""Where an interpretation was made, as its file says it, against where a task reads and writes.

One tensor has several hook names. Those of TransformerLens' bridge that fire with the same values are known
here as one:

    blocks.N.hook_resid_pre = blocks.N.hook_in = blocks.(N−1).hook_resid_post = blocks.(N−1).hook_out
    blocks.N.hook_resid_mid = blocks.N.ln2.hook_in
    blocks.N.hook_mlp_out = blocks.N.mlp.hook_out
    blocks.N.hook_attn_out = blocks.N.attn.hook_out
    blocks.N.attn.hook_z = blocks.N.attn.o.hook_in
    blocks.N.mlp.hook_in = blocks.N.ln2.hook_out

Not the same: `hook_mlp_in`, the residual stream before its normalisation, and `ln2.hook_normalized`, which
has not been multiplied by the norm's weight. In Gemma 2 and 3, which normalise again behind attention and
MLP, `hook_mlp_out` and `hook_attn_out` lie behind that norm, `mlp.hook_out` and `attn.hook_out` before it. A
name cannot tell, so there it is left to the user to give an SAE of the very hook.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from remainder.errors import InterpretationError
from remainder.interpretation import Reads
from remainder.task import ModelSpec, Site

_SAY_LITTLE = frozenset({"base", "chat", "hf", "instruct", "it", "pt", "small"})
_FOLDERS = frozenset({"checkpoints", "data", "model", "models", "output", "outputs", "runs", "saved"})

__all__ = ["Loaded", "MisfitError", "check_model", "check_width", "reads_at", "tensor_of"]


class Loaded(NamedTuple):
    """What a reader gives."""

    thing: Any
    """With `encode` and `decode`, and perhaps `skip`; float32."""
    reads: Reads


class MisfitError(InterpretationError):
    """It is sound, and was made for another place, width or model than the task's."""


_NAMES = (
    (r"hook_resid_post|hook_out", 1, "residual stream entering block {}"),
    (r"hook_resid_pre|hook_in", 0, "residual stream entering block {}"),
    (r"hook_resid_mid|ln2\.hook_in", 0, "residual stream in the middle of block {}"),
    (r"hook_mlp_out|mlp\.hook_out", 0, "output of the MLP of block {}"),
    (r"hook_attn_out|attn\.hook_out", 0, "output of the attention of block {}"),
    (r"attn\.hook_z|attn\.o\.hook_in", 0, "outputs of the attention heads of block {}"),
    (r"mlp\.hook_in|ln2\.hook_out", 0, "normalised input of the MLP of block {}"),
)


def tensor_of(hook: str) -> str:
    """One name for each tensor; a hook that is not known to have others keeps its own."""
    for pattern, later, name in _NAMES:
        if match := re.fullmatch(rf"blocks\.(\d+)\.(?:{pattern})", hook):
            return name.format(int(match[1]) + later)
    return hook


def reads_at(made: tuple[str, str], site: Site, where: Path | str) -> Reads:
    """Which of the site's places it reads, if it rebuilds what the task replaces.

    Args:
        made: hook names that it was made for: what it reads, and what it rebuilds from that.
        site: of the task.
        where: the file that says so.

    Raises:
        MisfitError: if it reads or rebuilds something else.
    """
    source, target = made
    if tensor_of(target) == tensor_of(site.hook_out):
        if tensor_of(source) == tensor_of(site.hook_in):
            return "in"
        if tensor_of(source) == tensor_of(site.hook_out):
            return "out"
    told = f"at {source}" if source == target else f"to read {source} and rebuild {target}"
    here = f"is {site.hook_in}" if site.is_reconstruction else f"reads {site.hook_in} for {site.hook_out}"
    raise MisfitError(
        f"{where}: it was trained {told}; the task's site {here}",
        fix="choose the task that it was made for, or write one: a task.toml with that [site]",
    )


def check_width(width: Any, site: Site, where: Path | str, field: str = "d_in") -> None:
    """Raise MisfitError unless a file's width is that of the site."""
    if width != site.width:
        raise MisfitError(
            f"{where}: {field} is {width}; the task's site {site.hook_in} has width {site.width}",
            fix="choose the task that it was made for",
        )


def check_model(named: Any, model: ModelSpec, where: Path | str) -> None:
    """Refuse an interpretation of another model, as far as its name can tell.

    Names are compared loosely: the owner, upper case and what follows a comma do not count, nor whether one
    says `small` or `instruct` (`gpt2` and `gpt2-small`, `SmolLM2-135M` and `SmolLM2-135M-Instruct`); other
    words do (`pythia-70m` and `pythia-70m-deduped`). A name that may be a folder's – a path, or a word that
    is no model of TransformerLens – tells nothing, and is accepted.

    Raises:
        MisfitError: if it names a published model, and that is not the task's.
    """
    if not isinstance(named, str) or not named.strip() or named == model.name:
        return
    here = [words for name in (model.name, model.hub or "") if (words := _words(name))]
    if any(_words(named) ^ words <= _SAY_LITTLE for words in here):
        return
    if _is_published(named):
        raise MisfitError(
            f"{where}: it was made for the model {named}; the task's is {model.name}",
            fix="choose a task of that model; if the name is wrong, correct it in the file",
        )


def _words(name: str) -> set[str]:
    """`HuggingFaceTB/SmolLM2-135M, dequantised` → {smollm, 2, 135m}."""
    own = name.split(",")[0].rstrip("/").rpartition("/")[2].lower()
    return set(re.findall(r"[a-z]+|\d+(?:\.\d+)?[a-z]?(?![a-z])", own))


def _is_published(name: str) -> bool:
    """Whether it reads as the id of a model that others know: `owner/name`, or a name of TransformerLens."""
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name):
        return name.partition("/")[0] not in _FOLDERS and not Path(name).exists()
    from transformer_lens.supported_models import MODEL_ALIASES, OFFICIAL_MODEL_NAMES

    known = {short.lower() for aliases in MODEL_ALIASES.values() for short in aliases}
    known |= {official.rpartition("/")[2].lower() for official in OFFICIAL_MODEL_NAMES}
    return name.lower() in known
