"""SAELens: a folder with `cfg.json` and `sae_weights.safetensors`, or an object with such a config.

1. The config's hook names, width and model against the task's.
2. The file's names, types and shapes against those of the class that sae-lens would make. No pickles.
3. sae-lens itself loads it.
4. `saelens_wrapping.wrapped` makes a reconstruction of it that is always decode(encode(x)) + skip(x).

Source: https://github.com/decoderesearch/SAELens, `saes/`, `loading/pretrained_sae_loaders.py`.
"""

from __future__ import annotations

import codecs
import copy
import dataclasses
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from remainder.base.files import brief, present
from remainder.base.messages import message_of
from remainder.errors import InterpretationError
from remainder.formats.context import context_warnings
from remainder.formats.fields import AGAIN, count, file_name, flag, table, text
from remainder.formats.known import Ignore, without_ignored
from remainder.formats.object_config import config_of
from remainder.formats.places import (
    HookPlace,
    Loaded,
    check_model,
    check_width,
    place_at,
    place_untold,
)
from remainder.formats.saelens_centring import means_warning
from remainder.formats.saelens_checks import Looked, look
from remainder.formats.saelens_fields import OBJECT, table_of
from remainder.formats.saelens_folding import (
    FACTORS,
    check_scale,
    fold_factor,
    fold_scale,
    needs_scale,
    take_factor,
    without_zero_rows,
)
from remainder.formats.saelens_wrapping import is_of_sae_lens, wrapped
from remainder.formats.tensors import Layout, header, missing_weights, read_json, read_tensors
from remainder.interpretation.casting import in_float32, unwrapped
from remainder.model.module_names import hook_of
from remainder.task.spec import Site, Task

__all__ = [
    "CONFIG",
    "WEIGHTS",
    "files",
    "found_in",
    "load",
    "load_object",
]

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"

_AXES: dict[str, tuple[str | int, ...]] = {
    "W_enc": ("d_in", "d_sae"),
    "W_dec": ("d_sae", "d_out"),
    "b_dec": ("d_out",),
    "W_skip": ("d_out", "d_in"),
}
_HINTS = {"threshold": "a latent is active above it, so codes are not known without; export the SAE again"}
_RENEWED = frozenset(
    f"{function}_{way}" for function in ("run_time_activation_norm_fn", "reshape_fn") for way in ("in", "out")
)
_RAISED = (AttributeError, KeyError, ValueError, TypeError, RuntimeError, AssertionError)


def found_in(path: Path) -> bool:
    """Whether `path` is such a folder."""
    return present(path / CONFIG) or present(path / WEIGHTS)


def files(path: Path) -> list[Path]:
    """Files whose content can change a score; these are hashed."""
    return sorted(file for file in path.glob("*") if file.suffix in {".json", ".safetensors"})


def load(path: Path, task: Task, ignore: Ignore | None = None) -> Loaded:
    """The SAE or transcoder in a folder, for the task's site.

    Args:
        path: of the folder.
        task: whose site and model it must be of.
        ignore: fields of its config to be passed over.

    Raises:
        InterpretationError: naming the file, what was found and what was expected.
    """
    where = path / CONFIG
    config = _without_ignored(read_json(where), where, ignore)
    place = _place(config, task, where)
    looked = look(config, task, where, ignore)
    sae, notes = _load_folder(path, config, task.site)
    return _loaded(sae, str(path), task, place, looked, notes)


def _without_ignored(config: dict[str, Any], where: Path, ignore: Ignore | None) -> dict[str, Any]:
    """A config as if fields that are to be ignored were not there: sae-lens does not see them either."""
    # Twice, since what its architecture may hold depends on fields that may be ignored.
    config = without_ignored(config, table_of(config), where, ignore)
    return without_ignored(config, table_of(config), where, ignore)


def _loaded(
    obj: Any, name: str, task: Task, place: HookPlace, looked: Looked, notes: tuple[str, ...]
) -> Loaded:
    """Complete what SAELens made by what its config says beyond that, and by notes on how it was read."""
    if looked.activation is not None:
        obj.activation_fn = looked.activation
    coder = wrapped(obj, name, task, place.reads, looked)
    means = means_warning(looked, task, place.reads, name)
    return Loaded(coder, *place._replace(warnings=(*place.warnings, *looked.warnings, *means, *notes)))


def _load_folder(folder: Path, config: dict[str, Any], site: Site) -> tuple[Any, tuple[str, ...]]:
    """The object of sae-lens in `folder`, float32, its scales folded in, and warnings about these.

    Args:
        folder: with the weights.
        config: its config, without what is to be ignored.
        site: of the task.

    Raises:
        InterpretationError: naming the file, what was found and what was expected.
    """
    where = folder / CONFIG
    if config.get("architecture") == "topk" and not (config.get("activation_fn_kwargs") or {}).get("k"):
        # sae-lens takes k from there, whether there is one or not.
        config = {name: value for name, value in config.items() if name != "activation_fn_kwargs"}
    _check_widths(config, site, where)
    if where.read_bytes().startswith(codecs.BOM_UTF8):
        raise InterpretationError(
            f"{where} begins with a byte order mark, which sae-lens does not read",
            fix="save it as UTF-8 without one",
        )
    count(config, "d_sae", where)
    text(config, "architecture", where)
    if not isinstance(config.get("normalize_activations"), bool):  # it was true or false at first
        text(config, "normalize_activations", where)
    flag(config, "apply_b_dec_to_input", where)
    weights = folder / WEIGHTS
    if not present(weights):
        raise missing_weights(folder, WEIGHTS, "save the SAE with sae.save_inference_model(folder)")
    header(weights)
    from sae_lens import SAE

    try:
        with _options_are_looked_at():
            layout = _layout(config, folder / CONFIG)
            tensors = read_tensors(weights, layout)
            factor = take_factor(config, tensors, where)
            settings = {**copy.deepcopy(config), "dtype": "float32", "device": "cpu"}
            sae = SAE.load_from_disk(folder, converter=lambda *_, **__: (settings, tensors)).eval()
        if factor is not None:
            fold_factor(sae, factor, where)
        sae, notes = without_zero_rows(sae)
        return sae, notes + fold_scale(sae, where)
    except InterpretationError:
        raise
    except _RAISED as problem:
        raise InterpretationError(
            f"{where}: sae-lens makes no SAE of these settings: {_reason(problem)}",
            fix="save it anew with sae.save_inference_model(folder)",
        ) from problem


@contextmanager
def _options_are_looked_at() -> Iterator[None]:
    """Silence sae-lens' own advice on loading the model: `look` heeds or refuses each of these options."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\s*This SAE has non-empty model_from_pretrained_kwargs")
        yield


def _reason(problem: Exception) -> str:
    """The words of a library's error, if it is about the settings and not about its own code."""
    if isinstance(problem, KeyError):
        return f"there is no field {problem}"
    if isinstance(problem, (TypeError, AttributeError)) or not str(problem).strip():
        return "one of them has a type that it does not expect"
    return message_of(problem)


def load_object(
    obj: Any,
    task: Task,
    name: str,
    ignore: Ignore | None = None,
    stated: dict[str, Any] | None = None,
) -> Loaded:
    """An object from a notebook, checked as far as it has a config of its own (`cfg`).

    Args:
        obj: with `encode` and `decode`.
        task: whose site and model it must be of.
        name: for messages.
        ignore: fields of its config to be passed over.
        stated: the config that sae-lens made it of, of which its `cfg` may have lost something.

    Raises:
        InterpretationError: if it was made for another width, hook or model, or a setting is not computed.
    """
    obj = unwrapped(obj)
    config = without_ignored(config_of(obj, name), OBJECT, name, ignore)
    # What has no config is no file, and nobody expects it to tell where it was made.
    place = _place(config, task, name) if "d_in" in config else HookPlace("in")
    _check_latents(config, obj, name)
    looked = look(config, task, name, ignore, is_object=True)
    if stated is not None:
        # Its own cfg was looked at already; what was lost on the way is strictly looked at.
        looked = look(stated, task, name, ignore, is_release=True)
    is_sae = is_of_sae_lens(obj)
    # A method of sae-lens leaves notes in the object when it is called, so none is called on the user's own.
    own = obj
    obj, notes = in_float32(obj, name, task.site.width, probe=not is_sae, renewed=_RENEWED)
    if is_sae:
        if obj is not own:
            obj._setup_activation_normalization()  # its functions keep the object that they were made for
        _require_folded(obj, name)
        obj, more = without_zero_rows(obj)
        notes += more
    return _loaded(obj, name, task, place, looked, notes)


def _check_latents(config: dict[str, Any], obj: Any, name: str) -> None:
    """Refuse an object whose cfg and decoder tell different numbers of latents."""
    decoder, stated = getattr(obj, "W_dec", None), config.get("d_sae")
    if (
        isinstance(decoder, Tensor)
        and decoder.ndim == 2
        and isinstance(stated, int)
        and stated != len(decoder)
    ):
        raise InterpretationError(
            f"{name}: W_dec has {len(decoder)} latents; cfg says d_sae = {stated}",
            fix="one of the two belongs to something else; take both from one place",
        )


def _require_folded(sae: Any, name: str) -> None:
    """Refuse an object whose weights are for activations that were rescaled; no file says by how much."""
    normalisation = sae.cfg.normalize_activations
    if needs_scale(normalisation):
        raise InterpretationError(
            f"{name}: normalize_activations is {normalisation}: its weights are for rescaled activations, "
            "and the object does not say by how much",
            fix="fold the scale in: sae.fold_activation_norm_scaling_factor(factor), or "
            "sae.fold_activation_whitening(…) with what training estimated",
        )


def _place(config: dict[str, Any], task: Task, where: Path | str) -> HookPlace:
    """The site's place that a config's SAE reads, with warnings on how that was told.

    Raises:
        InterpretationError: if it is of another width, hook or model.
    """
    stated = {**config, **table(config, "metadata", where)}
    named = check_model(text(stated, "model_name", where), task.model, where)
    _check_widths(config, task.site, where)
    hooks, notes = _hooks(stated, task.site, where), context_warnings(stated, task, where)
    if hooks is not None:
        place = place_at(hooks, task, where)
        place = place._replace(warnings=place.warnings + _target_warning(stated, task.site, where))
    else:
        place = place_untold(task, where, "no hook_name")
        if "d_out" in config:
            place = place._replace(reads="in")
    return place._replace(warnings=place.warnings + named + notes)


def _target_warning(stated: dict[str, Any], site: Site, where: Path | str) -> tuple[str, ...]:
    """A warning for a transcoder that does not tell what it rebuilds."""
    if "d_out" not in stated or stated.get("hook_name_out") is not None:
        return ()
    return (
        f"{file_name(where)} does not tell what it rebuilds (no hook_name_out): that it was made for "
        f"{site.hook_out} is taken on trust; its width is all that was compared.",
    )


def _check_widths(config: dict[str, Any], site: Site, where: Path | str) -> None:
    check_width(config.get("d_in"), site, where)
    if "d_out" in config:
        check_width(config["d_out"], site, where, "d_out")


def _hooks(stated: dict[str, Any], site: Site, where: Path | str) -> tuple[str, str] | None:
    """Hooks that it reads and rebuilds, by the names of TransformerLens; None if no hook is named."""
    source = text(stated, "hook_name", where) or text(stated, "hook_point", where)
    for name in ("hook_layer", "hook_point_layer"):
        if source is None and isinstance(stated.get(name), int):
            source = f"blocks.{stated[name]}.hook_resid_post"
    if source is None:
        return None
    target = text(stated, "hook_name_out", where)
    if target is None:
        # A transcoder that names its input only is taken to write where the task does.
        target = site.hook_out if "d_out" in stated else source
    # With model_class_name AutoModelForCausalLM, sae-lens hooks what a module gives.
    return hook_of(source), hook_of(target)


def _layout(config: dict[str, Any], where: Path) -> Layout:
    """Names and shapes that the class of sae-lens for this config has."""
    from sae_lens.loading.pretrained_sae_loaders import handle_config_defaulting
    from sae_lens.registry import SAE_CLASS_REGISTRY

    if config.get("architecture", "standard") not in SAE_CLASS_REGISTRY:
        raise InterpretationError(
            f"{where}: architecture is {brief(config['architecture'])}; sae-lens knows "
            f"{', '.join(SAE_CLASS_REGISTRY)}",
            fix="save it anew with sae.save_inference_model(folder)",
        )
    full = handle_config_defaulting(copy.deepcopy(config))
    sae_class, config_class = SAE_CLASS_REGISTRY[full.get("architecture", "standard")]
    settings = config_class.from_dict({**full, "dtype": "float32", "device": "meta"})
    _check_types(settings, where)
    made = sae_class(settings)
    check_scale(made, where)
    sizes = {"d_in": made.cfg.d_in, "d_sae": made.cfg.d_sae}
    sizes["d_out"] = getattr(made.cfg, "d_out", sizes["d_in"])
    words = {size: word for word, size in sizes.items() if word == "d_sae"}
    tensors: dict[str, tuple[str | int, ...]] = {}
    for name, value in made.state_dict().items():
        shape = tuple(value.shape)
        axes = _AXES.get(name, tuple(words.get(size, size) for size in shape))
        fits = shape == tuple(axis if isinstance(axis, int) else sizes[axis] for axis in axes)
        tensors[name] = axes if fits else shape
    # Before version 6; for a time sae-lens saved ones under the second name without any fine-tuning.
    tensors.update(dict.fromkeys(FACTORS, ("d_sae",)))
    stated = {word: size for word, size in sizes.items() if word != "d_out" or hasattr(made.cfg, "d_out")}
    says = f"{CONFIG} says " + ", ".join(f"{word} = {size}" for word, size in stated.items())
    return Layout(tensors, sizes, says, optional=frozenset(FACTORS), hints=_HINTS)


def _check_types(settings: Any, where: Path) -> None:
    """Refuse a setting whose type differs from its default's; sae-lens takes anything, and fails later."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        for kinds, expected in (((bool,), "true or false"), ((int, float), "a number"), ((str,), "text")):
            if isinstance(field.default, kinds):
                if not isinstance(value, kinds) or (bool not in kinds and isinstance(value, bool)):
                    raise InterpretationError(
                        f"{where}: {field.name} is {brief(value)}; expected {expected}", fix=AGAIN
                    )
                break
