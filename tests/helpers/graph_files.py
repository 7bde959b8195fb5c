"""A tiny model, a set of transcoders, and attribution graphs of them, written without this package's code.

The model of transformers is run with hooks on the modules of its MLPs; a graph has the fields that
circuit-tracer writes, and the activations that its features have on the prompt. Weights of links are random.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tiny
import torch
from format_files import random_weights, without_skip, write_circuit_tracer
from torch import Tensor
from transformers import AutoModelForCausalLM

LATENTS = 20
WORDS = (5, 9, 33, 7, 60)
IDS = (tiny.BOS, *WORDS)

Parts = tuple[Tensor, Tensor]
"""Latents [rows, positions, latents] and errors [rows, positions, width] of a block."""


@dataclass
class World:
    """A folder with `model` and `set`, and the graphs that are written into it.

    The transcoders are skip-transcoders with ReLU, of what the MLPs read and write.
    """

    folder: Path
    architecture: str = "llama"

    def __post_init__(self) -> None:
        tiny.save_model(tiny.make_model(self.architecture), self.folder / "model")
        self.weights = {block: self.drawn(block) for block in range(tiny.LAYERS)}
        self.write_set(self.folder / "set")

    def drawn(self, block: int) -> dict[str, Tensor]:
        """Random weights of a block's transcoder."""
        weights = random_weights(tiny.WIDTH, LATENTS, seed=block)
        return {name: 0.3 * value for name, value in weights.items()}

    def write_set(self, folder: Path, blocks: range = range(tiny.LAYERS), **config: Any) -> Path:
        """The set as circuit-tracer writes it, with some of its blocks."""
        listed = config.pop("listed", None)
        settings = {"model_name": str(self.folder / "model"), "scan": "somebody/tiny-transcoders", **config}
        layers = {block: self.weights[block] for block in blocks}
        return write_circuit_tracer(folder, layers, listed, **settings)

    @cached_property
    def model(self) -> Any:
        return AutoModelForCausalLM.from_pretrained(self.folder / "model", dtype=torch.float32).eval()

    def latents(self, block: int, read: Tensor) -> Tensor:
        return torch.relu(read @ self.weights[block]["W_enc"] + self.weights[block]["b_enc"])

    def rebuilt(self, block: int, latents: Tensor, read: Tensor) -> Tensor:
        weights = self.weights[block]
        return latents @ weights["W_dec"] + weights["b_dec"] + read @ weights["W_skip"].T

    def places(self, layer: Any) -> tuple[Any, Any]:
        """The module whose input a transcoder reads, and that whose output it rebuilds."""
        return layer.mlp, layer.mlp

    def read(self, given: Tensor) -> Tensor:
        """What a transcoder reads, of the input of that module."""
        return given

    def run(self, tokens: Tensor, change: Callable[[int, Tensor, Parts], Parts | None]) -> Tensor:
        """Logits of a pass; `change` sees what each MLP reads and its parts, and may give other parts."""
        handles, seen = [], dict[int, Tensor]()
        for block, layer in enumerate(self.model.model.layers):

            def before(module: Any, given: Any, block: int = block) -> None:
                seen[block] = self.read(given[0])

            def after(module: Any, given: Any, output: Tensor, block: int = block) -> Tensor:
                read = seen[block]
                found = self.latents(block, read)
                parts = change(block, read, (found, output - self.rebuilt(block, found, read)))
                return output if parts is None else self.rebuilt(block, parts[0], read) + parts[1]

            first, last = self.places(layer)
            handles += [first.register_forward_pre_hook(before), last.register_forward_hook(after)]
        try:
            with torch.no_grad():
                logits: Tensor = self.model(tokens).logits
        finally:
            for handle in handles:
                handle.remove()
        return logits

    def record(self, tokens: Tensor) -> tuple[dict[int, Parts], Tensor]:
        """Parts of every block in a clean pass, and its logits."""
        seen: dict[int, Parts] = {}

        def note(block: int, read: Tensor, parts: Parts) -> None:
            seen[block] = parts

        return seen, self.run(tokens, note)

    def kept(self, tokens: Tensor, keeps: Mapping[int, Parts], instead: Mapping[int, Parts]) -> Tensor:
        """Logits of a pass with all nodes but those that are kept replaced."""

        def mix(block: int, read: Tensor, parts: Parts) -> Parts:
            latents, errors = keeps[block]
            return (
                torch.where(latents, parts[0], instead[block][0]),
                torch.where(errors[:, None], parts[1], instead[block][1]),
            )

        return self.run(tokens, mix)

    def graph(
        self, name: str, share: float, *, seed: int = 0, ids: tuple[int, ...] = IDS, active: bool = False
    ) -> Path:
        """A graph of a prompt that keeps about that share of all latents and errors; gives its file.

        Args:
            active: only latents that are not 0 there, and nothing of the first token, as circuit-tracer does.
        """
        tokens = torch.tensor([ids])
        parts, logits = self.record(tokens)
        generator = np.random.default_rng(seed)
        last = len(ids) - 1
        nodes = [_node(f"E_{word}_{place}", place, "E", place, "embedding") for place, word in enumerate(ids)]
        for block, (latents, _) in parts.items():
            for place in range(int(active), len(ids)):
                chosen = generator.random(LATENTS) < share
                if active:
                    chosen &= latents[0, place].numpy() > 0
                for number in np.flatnonzero(chosen).tolist():
                    paired = (block + number) * (block + number + 1) // 2 + number
                    made = _node(
                        f"{block}_{number}_{place}", paired, str(block), place, "cross layer transcoder"
                    )
                    nodes.append({**made, "activation": float(latents[0, place, number])})
                if generator.random() < share:
                    nodes.append(
                        _node(f"{block}_-1_{place}", -1, str(block), place, "mlp reconstruction error")
                    )
        shares = np.sort(generator.random(len(nodes))).tolist()
        nodes = [{**node, "influence": value} for node, value in zip(nodes, shares, strict=True)]
        top = logits[0, -1].softmax(-1).topk(2)
        after = str(tiny.LAYERS + 1)
        for number, chance in zip(top.indices.tolist(), top.values.tolist(), strict=True):
            made = _node(f"{after}_{number}_{last}", number, after, last, "logit")
            nodes.append({**made, "token_prob": chance, "influence": None})
        target = nodes[-2]["node_id"]
        links = [
            {"source": node["node_id"], "target": target, "weight": float(generator.standard_normal())}
            for node in nodes[:-2]
        ]
        return self.write(name, nodes, links, ids)

    def write(self, name: str, nodes: Any, links: Any, ids: tuple[int, ...]) -> Path:
        words = ["<s>" if word == tiny.BOS else f"w{word}" for word in ids]
        content = {
            "metadata": {
                "slug": name,
                "scan": "somebody/tiny-transcoders",
                "transcoder_list": [],
                "prompt_tokens": words,
                "prompt": " ".join(words[1:]),
                "node_threshold": 0.8,
                "schema_version": 1,
            },
            "qParams": {
                "pinnedIds": [],
                "supernodes": [],
                "linkType": "both",
                "clickedId": "",
                "sg_pos": "",
            },
            "nodes": nodes,
            "links": links,
        }
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        return path


@dataclass
class ScopeWorld(World):
    """Gemma 2 with the transcoders of Gemma Scope, as circuit-tracer lists them of another repository."""

    architecture: str = "gemma-2"

    def drawn(self, block: int) -> dict[str, Tensor]:
        weights = without_skip(super().drawn(block))
        threshold = torch.full((LATENTS,), 0.2)
        return {**weights, "threshold": threshold}

    def latents(self, block: int, read: Tensor) -> Tensor:
        weights = self.weights[block]
        before = read @ weights["W_enc"] + weights["b_enc"]
        return torch.where(before > weights["threshold"], before, 0.0).relu()

    def rebuilt(self, block: int, latents: Tensor, read: Tensor) -> Tensor:
        return latents @ self.weights[block]["W_dec"] + self.weights[block]["b_dec"]

    def places(self, layer: Any) -> tuple[Any, Any]:
        return layer.pre_feedforward_layernorm, layer.post_feedforward_layernorm

    def read(self, given: Tensor) -> Tensor:
        """The normalised residual stream, before the norm's gain."""
        return given * (given.pow(2).mean(-1, keepdim=True) + self.model.config.rms_norm_eps).rsqrt()

    def write_set(self, folder: Path, blocks: range = range(tiny.LAYERS), **config: Any) -> Path:
        """Two repositories in `folder`: `list` with the list, and `weights` with the arrays."""
        listed = []
        for block in blocks:
            place = f"layer_{block}/width_16k/average_l0_{70 + block}/params.npz"
            listed.append(f"hf://{WEIGHTS}/{place}")
            (folder / "weights" / place).parent.mkdir(parents=True)
            np.savez(
                folder / "weights" / place,
                **{name: part.numpy() for name, part in self.weights[block].items()},
            )
        settings = {
            "model_name": str(self.folder / "model"),
            "feature_input_hook": "ln2.hook_normalized",
            **config,
        }
        write_circuit_tracer(folder / "list", {}, listed, **settings)
        return folder


WEIGHTS = "google/gemma-scope-2b-pt-transcoders"
"""The repository that the list of `ScopeWorld` names."""


def _node(name: str, number: int, layer: str, place: int, kind: str) -> dict[str, Any]:
    return {
        "node_id": name,
        "feature": number,
        "layer": layer,
        "ctx_idx": place,
        "feature_type": kind,
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": f"{name}-0",
        "clerp": "",
        "influence": 0.5,
        "activation": None,
    }
