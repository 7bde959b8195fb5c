"""The place at which an interpretation was made, against the places that a task reads and writes.

One tensor has several hook names. In most models these of TransformerLens' bridge fire with the same values:

    blocks.N.hook_resid_pre = blocks.N.hook_in = blocks.(N−1).hook_resid_post = blocks.(N−1).hook_out
    blocks.N.hook_resid_mid = blocks.N.ln2.hook_in
    blocks.N.hook_mlp_out = blocks.N.mlp.hook_out = blocks.N.mlp.out.hook_out = blocks.N.ln2_post.hook_out
    blocks.N.hook_attn_out = blocks.N.attn.hook_out = blocks.N.attn.o.hook_out = blocks.N.ln1_post.hook_out
    blocks.N.attn.hook_z = blocks.N.attn.o.hook_in
    blocks.N.mlp.hook_in = blocks.N.ln2.hook_out
    blocks.N.attn.hook_in = blocks.N.ln1.hook_out

Not in all of them: where a model normalises behind its MLP (Gemma 2 and 3, GLM 4, OLMo 2 and 3), scales what
it adds (Granite) or adds within the module (BLOOM, MPT), two of these are two tensors. So a name other than
the site's own is an *alias*, which has to be shown to be one:

1. where the architecture is known to hold two tensors (`_APART`), the file is refused as it is read;
2. else both hooks are compared on the loaded model before anything is measured
   (`remainder.submission.aliases`).

Never the same: `hook_mlp_in`, the residual stream before its normalisation, and `ln2.hook_normalized`, which
in the bridge has not been multiplied by the norm's gain. HookedTransformer before TransformerLens 3 had the
latter behind gain and bias of a LayerNorm, and before the gain of an RMSNorm. So unless the model is known to
have RMSNorm, a file that says `hook_normalized` fits only where the model's gain changes nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from remainder.base.files import brief
from remainder.base.paths import project_root
from remainder.errors import InterpretationError
from remainder.formats.fields import file_name
from remainder.interpretation.protocol import Adapted, Alias, Reads, adapt
from remainder.task.spec import ANYWHERE, ModelSpec, Site, Task

_SAY_LITTLE = frozenset({"base", "chat", "hf", "instruct", "it", "pt", "small"})
_FOLDERS = frozenset({"checkpoints", "data", "model", "models", "output", "outputs", "runs", "saved"})

__all__ = [
    "Alias",
    "HookPlace",
    "Loaded",
    "MisfitError",
    "beside_output",
    "check_count",
    "check_model",
    "check_no_skip",
    "check_width",
    "has_layer_norm",
    "place_at",
    "place_untold",
    "reads_at",
    "tensor_of",
    "two_tensors",
]


class HookPlace(NamedTuple):
    """The place of a file's interpretation at a task's site."""

    reads: Reads
    warnings: tuple[str, ...] = ()
    aliases: tuple[Alias, ...] = ()
    stated: bool = True


class Loaded(NamedTuple):
    """The result of a reader: the object itself, then the fields of a `HookPlace`."""

    interpretation: Any
    """An object with `encode` and `decode`, and perhaps `skip`; float32."""
    reads: Reads
    warnings: tuple[str, ...] = ()
    """Whole sentences on what the file does not tell, for `check`, the table and the record."""
    aliases: tuple[Alias, ...] = ()
    """Hooks that its place was taken for the task's by; to be compared on the loaded model."""
    stated: bool = True
    """Whether the file says where it was made; if not, whoever submits it must vouch for it."""

    def adapted(self, width: int, name: str) -> Adapted:
        """The object wrapped for a site of `width`; see `adapt`."""
        return adapt(self.interpretation, width, name, self.reads, self.warnings, self.aliases)


def beside_output(interpretation: Any, task: Task) -> Loaded:
    """An interpretation that rebuilds what it reads, so that nothing in a file need say its place.

    At a task that reads another place than it replaces, it reads what is replaced.
    """
    return Loaded(interpretation, "in" if task.site.is_reconstruction else "out")


class MisfitError(InterpretationError):
    """A sound file that was made for another place, width or model than the task's."""

    made: tuple[str, str] | None = None
    """Hook names that it was made for, where these are what does not fit."""


_NAMES = (
    (r"hook_resid_post|hook_out", 1, "residual stream entering block {}"),
    (r"hook_resid_pre|hook_in", 0, "residual stream entering block {}"),
    (r"hook_resid_mid|ln2\.hook_in", 0, "residual stream in the middle of block {}"),
    (r"hook_mlp_out|mlp\.hook_out|mlp\.out\.hook_out|ln2_post\.hook_out", 0, "output of the MLP of block {}"),
    (
        r"hook_attn_out|attn\.hook_out|attn\.o\.hook_out|ln1_post\.hook_out",
        0,
        "output of the attention of block {}",
    ),
    (r"attn\.hook_z|attn\.o\.hook_in", 0, "outputs of the attention heads of block {}"),
    (r"mlp\.hook_in|ln2\.hook_out", 0, "normalised input of the MLP of block {}"),
    (r"attn\.hook_in|ln1\.hook_out", 0, "normalised input of the attention of block {}"),
)
_WITH_POST_NORMS = frozenset({"hook_mlp_out", "ln2_post.hook_out", "hook_attn_out", "ln1_post.hook_out"})
_WITHOUT_PRE_NORMS = frozenset(
    {"hook_mlp_out", "hook_attn_out", "hook_resid_mid", "ln2.hook_out", "ln1.hook_out"}
)
_APART: Mapping[str, frozenset[str]] = {
    # By transformers' `model_type`: hooks of a block that are another tensor than the rest of their line.
    **dict.fromkeys(("gemma2", "gemma3", "gemma3_text", "glm4", "afmoe"), _WITH_POST_NORMS),
    **dict.fromkeys(("olmo2", "olmo3", "exaone4"), _WITHOUT_PRE_NORMS),
    "bloom": frozenset({"mlp.hook_out", "attn.hook_out"}),
    "mpt": frozenset({"mlp.hook_out"}),
}


def tensor_of(hook: str) -> str:
    """One name for each tensor; a hook that is not known to have others keeps its own."""
    for pattern, later, name in _NAMES:
        if match := re.fullmatch(rf"blocks\.(\d+)\.(?:{pattern})", hook):
            return name.format(int(match[1]) + later)
    return hook


def two_tensors(one: str, other: str, model: ModelSpec) -> bool:
    """Whether two hooks that `tensor_of` takes for one are known to be two in a model, by its config.

    False says nothing: what is not known here is compared on the loaded model.
    """
    first, second = (re.sub(r"^blocks\.\d+\.", "", hook) for hook in (one, other))
    for config in _configs(model):
        for kind in (config.get("model_type"), _fields(config.get("text_config")).get("model_type")):
            apart = _APART.get(str(kind), frozenset())
            if str(kind).startswith("granite") and config.get("residual_multiplier", 1) != 1:
                apart = frozenset({"hook_mlp_out", "hook_attn_out"})
            if (first in apart) != (second in apart):
                return True
    return False


def place_at(made: tuple[str, str], task: Task, where: Path | str) -> HookPlace:
    """Call `reads_at`, and give the aliases that the answer rests on.

    Args:
        made: hook names that it was made for: what it reads, and what it rebuilds from that.
        task: whose site and model count.
        where: the file that says so.

    Raises:
        MisfitError: if it reads or rebuilds something else, or the model is known to hold two tensors under
            the two names.
    """
    reads = reads_at(made, task.site, where)
    ours = (task.site.hook_in if reads == "in" else task.site.hook_out, task.site.hook_out)
    aliases: dict[Alias, None] = {}
    for stated, own in zip(made, ours, strict=True):
        if stated != own:
            if two_tensors(stated, own, task.model):
                raise MisfitError(
                    f"{where}: it was made at {stated}; the task's site is {own}, which in the model "
                    f"{task.model.name} is another tensor",
                    fix=f"choose a task whose [site] names {stated}, or write one",
                )
            aliases[Alias(stated, own)] = None
        if stated.endswith(".hook_normalized") and has_layer_norm(task.model) is not False:
            aliases[Alias(stated.replace("hook_normalized", "hook_out"), own, _OF_OLD)] = None
    return HookPlace(reads, (), tuple(aliases))


_OF_OLD = (
    "hook_normalized is behind gain and bias of a LayerNorm in HookedTransformer before TransformerLens 3, "
    "and before them since; the file does not tell which was meant"
)


def place_untold(task: Task, where: Path | str, lacks: str) -> HookPlace:
    """The place of a file that does not state it: it is taken to fit, with a warning.

    Args:
        lacks: what it should have said, as in `no hook_name`.
    """
    site = task.site
    if site == ANYWHERE:
        raise MisfitError(
            f"{where} does not tell at which hook it was made ({lacks})", fix="name it: `hook` (--hook HOOK)"
        )
    here = site.hook_in if site.is_reconstruction else f"the output of {site.hook_in} at {site.hook_out}"
    note = (
        f"{file_name(where)} does not tell its place ({lacks}): that it was made for {here} is taken on "
        "trust; its width is all that was compared."
    )
    return HookPlace("in" if site.is_reconstruction else "out", (note,), stated=False)


def reads_at(made: tuple[str, str], site: Site, where: Path | str) -> Reads:
    """The place of the site that it reads, if it rebuilds what the task replaces.

    Args:
        made: hook names that it was made for: what it reads, and what it rebuilds from that.
        site: of the task.
        where: the file that says so.

    Raises:
        MisfitError: if it reads or rebuilds something else.
    """
    source, target = made
    if tensor_of(target) == tensor_of(site.hook_out):
        # The very name first: what names take for one tensor may be two.
        if source == site.hook_out != site.hook_in:
            return "out"
        if tensor_of(source) == tensor_of(site.hook_in):
            return "in"
        if tensor_of(source) == tensor_of(site.hook_out):
            return "out"
    stated = f"at {source}" if source == target else f"to read {source} and rebuild {target}"
    here = f"is {site.hook_in}" if site.is_reconstruction else f"reads {site.hook_in} for {site.hook_out}"
    problem = MisfitError(
        f"{where}: it was trained {stated}; the task's site {here}",
        fix="score it at the hook that it was made for (`remainder score` makes a task at any)",
    )
    problem.made = made
    raise problem


def check_width(width: Any, site: Site, where: Path | str, field: str = "d_in") -> None:
    """Raise MisfitError unless a file's width is that of the site; nothing is wrong with it at `ANYWHERE`."""
    if site == ANYWHERE:
        return
    if width != site.width or not isinstance(width, int):
        raise MisfitError(
            f"{where}: {field} is {brief(width)}; the task's site {site.hook_in} has width {site.width}",
            fix="choose the task that it was made for",
        )


def check_no_skip(site: Site, reads: Reads, where: Path | str) -> None:
    """Refuse a skip matrix where what it reads is what it rebuilds: it could be the identity, without a code.

    Raises:
        InterpretationError: if that is so.
    """
    if reads == "out" or tensor_of(site.hook_in) == tensor_of(site.hook_out):
        raise InterpretationError(
            f"{where}: it has a skip matrix (W_skip), and at {site.hook_out} it would rebuild what it reads: "
            "what passes there is not by its codes",
            fix="give it without the matrix, or score it as a transcoder, at a task that reads another place",
        )


def check_count(value: Any, most: int, where: Path | str, field: str) -> int:
    """A number of active latents, such as the k of a top-k SAE.

    Raises:
        InterpretationError: unless it is a whole number from 1 to `most`, the number of latents.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise InterpretationError(
            f"{where}: {field} is {brief(value)}; expected a whole number from 1 to {most}, the number of "
            "latents",
            fix="take the config that training wrote",
        )
    return value


def has_layer_norm(model: ModelSpec) -> bool | None:
    """Whether a model's norms take the mean over the width out (LayerNorm) or do not (RMSNorm).

    By its config of transformers: that in its folder, or else the default ones of the architectures that
    TransformerLens' list of models has under its name. None: these tell nothing, or not the same.
    """
    found = {_norm_of(config) for config in _configs(model)}
    return found.pop() if len(found) == 1 else None


def _configs(model: ModelSpec) -> list[Mapping[str, Any]]:
    """Configs of transformers that a model may have: its own, or the default ones of its architectures."""
    folder = project_root() / model.folder if model.folder is not None else Path(model.hub or "")
    if (model.folder or model.hub) and (folder / "config.json").is_file():
        return [_fields(json.loads((folder / "config.json").read_text(encoding="utf-8")))]
    import transformers

    known = [getattr(transformers, name, None) for name in sorted(_architectures(model))]
    made = [one.config_class() for one in known if one is not None]
    return [{"model_type": config.model_type, **vars(config)} for config in made]


def _fields(value: Any) -> Mapping[str, Any]:
    """A config's fields; none, if it is something else."""
    return value if isinstance(value, dict) else {}


def _norm_of(config: Iterable[str]) -> bool | None:
    """Whether the norm is a LayerNorm, by fields such as `rms_norm_eps` or `layer_norm_epsilon`."""
    names = list(config)
    if any(name.startswith("rms_norm") for name in names):
        return False
    return True if any(name.startswith("layer_norm") for name in names) else None


def _architectures(model: ModelSpec) -> set[str]:
    """Classes of transformers that TransformerLens lists for a model's name or id, whoever owns it."""
    from transformer_lens.supported_models import MODEL_ALIASES
    from transformer_lens.tools.model_registry.api import get_supported_models

    own = {_last(name) for name in (model.name.split(",")[0], model.hub) if name}
    for official, aliases in MODEL_ALIASES.items():
        if own & {alias.lower() for alias in aliases}:
            own.add(_last(official))
    return {entry.architecture_id for entry in get_supported_models() if _last(entry.model_id) in own}


def _last(name: str) -> str:
    return name.rpartition("/")[2].lower()


def check_model(named: Any, model: ModelSpec, where: Path | str) -> tuple[str, ...]:
    """Refuse an interpretation of another model, as far as its name can tell; gives warnings.

    Names are compared loosely: the owner, upper case and what follows a comma do not count, nor whether one
    says `small` or `instruct` (`gpt2` and `gpt2-small`, `SmolLM2-135M` and `SmolLM2-135M-Instruct`); other
    words do (`pythia-70m` and `pythia-70m-deduped`). A name that may be a folder's – a path, or a word that
    is not a model of TransformerLens – tells nothing, and is accepted. A model that is called after its
    folder, or was given as an object, may be that model under another name: there a warning says so.

    Raises:
        MisfitError: if it names a published model, and that is not the task's.
    """
    if not isinstance(named, str) or not named.strip() or named == model.name:
        return ()
    here = [words for name in (model.name, model.hub or "") if (words := _words(name))]
    if any(_words(named) ^ words <= _SAY_LITTLE for words in here) or not _is_published(named):
        return ()
    is_folder = model.is_local and model.name == Path(model.hub or "").name
    # An object's name may be that of a folder or a class, which tells as little.
    if is_folder or (model.given is not None and not _is_published(model.name)):
        return (
            f"{file_name(where)}: it was made for the model {named}, and this one is called {model.name}: "
            "that both are the same is taken on trust.",
        )
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
