"""SAELens: a folder with `cfg.json` and `sae_weights.safetensors`, or a release on the Hugging Face hub.

sae-lens itself reads both; this module checks what it would let pass. Folders with pickles are refused;
what the hub holds is read by sae-lens with whatever it uses there.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from remainder.errors import InterpretationError
from remainder.task import Site

__all__ = ["CONFIG", "WEIGHTS", "check_object", "load_folder", "load_hub"]

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
_PICKLES = {".pt", ".pth", ".bin", ".pkl", ".ckpt"}


def load_folder(folder: Path, site: Site) -> Any:
    """The SAE in `folder`, float32.

    Raises:
        InterpretationError: naming the file, what was found and what was expected.
    """
    config = _config(folder)
    _check_site(config, site, folder / CONFIG)
    weights = folder / WEIGHTS
    if not weights.is_file():
        pickles = [path.name for path in folder.glob("*") if path.suffix in _PICKLES]
        raise InterpretationError(
            f"{folder} has no {WEIGHTS}" + (f", only {', '.join(pickles)}" if pickles else ""),
            fix="pickles are never loaded; convert once, where you trust the file: "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'sae_weights.safetensors')"
            if pickles
            else "save the SAE with sae.save_inference_model(folder)",
        )
    _check_weights(weights, config)
    from sae_lens import SAE

    try:
        return SAE.load_from_disk(folder, dtype="float32").eval()
    except (AttributeError, KeyError, ValueError, TypeError, RuntimeError) as problem:
        raise InterpretationError(
            f"{folder}: sae-lens cannot load it: {problem}", fix="save it anew with sae.save_inference_model"
        ) from problem


def load_hub(name: str, site: Site) -> Any:
    """The SAE `OWNER/REPO:SAE_ID` (or `RELEASE:SAE_ID` of sae-lens's list) from the hub, float32.

    Raises:
        InterpretationError: if there is no such SAE, or it does not fit the site.
    """
    release, colon, sae_id = name.partition(":")
    if not colon or not release or not sae_id:
        raise InterpretationError(
            f"hub:{name} does not name an SAE",
            fix="write hub:OWNER/REPO:SAE_ID, the path inside the repository",
        )
    from sae_lens import SAE

    try:
        sae = SAE.from_pretrained(release, sae_id, dtype="float32")
    except Exception as problem:  # whatever the hub, the network or the reader raise, the cause is shown
        first = (str(problem).strip() or type(problem).__name__).splitlines()[0]
        raise InterpretationError(
            f"hub:{name} cannot be loaded: {type(problem).__name__}: {first}",
            fix="check the id, the network and, for a gated repository, the token of `hf auth login`",
        ) from problem
    _check_site(sae.cfg.to_dict(), site, name)
    return sae.eval()


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InterpretationError(f"{path} does not exist", fix="give a folder that SAELens saved") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as problem:
        raise InterpretationError(f"{path} is not valid JSON: {problem}", fix="save the SAE anew") from None
    if not isinstance(config, dict):
        raise InterpretationError(f"{path} holds no JSON object", fix="save the SAE anew")
    return config


def _check_site(config: dict[str, Any], site: Site, where: Path | str) -> None:
    width = config.get("d_in")
    if width != site.width:
        raise InterpretationError(
            f"{where}: d_in is {width}; the task's site {site.hook_in} has width {site.width}",
            fix="choose the task that this SAE was made for",
        )
    metadata = config.get("metadata")
    named = metadata.get("hook_name") if isinstance(metadata, dict) else config.get("hook_name")
    if isinstance(named, str) and _tensor_of(named) != _tensor_of(site.hook_in):
        raise InterpretationError(
            f"{where}: it was trained at {named}; the task's site is {site.hook_in}",
            fix="choose the task that this SAE was made for",
        )


def check_object(thing: Any, site: Site, name: str) -> None:
    """Check a loaded SAE's own config (if it has one) against the site.

    Raises:
        InterpretationError: if it was made for another width or hook.
    """
    config: Any = getattr(thing, "cfg", None)
    if config is not None and callable(getattr(config, "to_dict", None)):
        content = config.to_dict()
        if isinstance(content, dict) and "d_in" in content:
            _check_site(content, site, name)


def _tensor_of(hook: str) -> str:
    """One name for each tensor of the residual stream, which has up to four."""
    match = re.fullmatch(r"blocks\.(\d+)\.hook_(resid_pre|resid_post|in|out)", hook)
    if match is None:
        return hook
    after = match[2] in ("resid_post", "out")
    return f"residual stream entering block {int(match[1]) + after}"


def _check_weights(path: Path, config: dict[str, Any]) -> None:
    """Header, shapes and finite values, before any library sees the file."""
    try:
        with safe_open(path, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as problem:
        raise InterpretationError(
            f"{path} is not a readable safetensors file: {problem}", fix="copy it again; it may be truncated"
        ) from problem
    expected = (config.get("d_sae"), config.get("d_in"))
    decoder = tensors.get("W_dec")
    if decoder is not None and None not in expected and tuple(decoder.shape) != expected:
        turned = " (transposed)" if tuple(decoder.shape) == expected[::-1] else ""
        raise InterpretationError(
            f"{path}: W_dec has shape {tuple(decoder.shape)}{turned}; {CONFIG} says {expected}",
            fix="W_dec must be [d_sae, d_in]",
        )
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise InterpretationError(
                f"{path}: {name} holds NaN or infinity", fix="train or export the SAE again"
            )
