"""Tasks: programs compiled to transformers, in which every variable has its own known coordinates.

Source: CONTROLS, G; `compile.py` and `model.py` beside this.

Steps:
1. A document is one sequence of each length from 1 to `length`, its letters drawn independently and
   uniformly; so all documents have equally many tokens of each kind of position. A window is the beginning-
   of-sequence token, a sequence, and padding.
2. Targets come from the definition of the program (`PROGRAMS`), not from the network.
3. The site is the residual stream after the program has computed something it still needs. Tokens of the
   sequence are spliced; the beginning of the sequence and padding are not.
4. Interpretations keep some coordinates and put the others at their mean on `fit`: `drop-needed`: all but
   one variable that is read later; `drop-unread`: all but one variable that has varied until now, and is
   never read again; `keep-all-read`: none but those that some later weight reads, the compiled circuit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from remainder.build import Built, Examples, load_script

__all__ = ["PROGRAMS", "Kept", "Roles", "build"]


@dataclass(frozen=True)
class Roles:
    """What a program computes, and variables of its residual stream at a site."""

    answers: Callable[[str], Sequence[int | str | float]]
    site: str
    needed: str
    unread: str
    """Its coordinates that tell letters apart, if these are the tokens."""


PROGRAMS = {
    "reverse": Roles(lambda s: s[::-1], "resid_3", "opp_idx-1", "length"),
    "histogram": Roles(
        lambda s: [s.count(letter) for letter in s],
        "resid_mid_0",
        "hist_selector_width_attn_output",
        "tokens",
    ),
    "frac-prevs": Roles(
        lambda s: [s[: i + 1].count("a") / (i + 1) for i in range(len(s))], "resid_1", "map", "tokens"
    ),
}
"""By the folder that a program was compiled into."""


@dataclass(frozen=True)
class Kept:
    """x̂ is x at some coordinates, and the mean at all others."""

    mean: Float[Tensor, " d"]
    coordinates: tuple[int, ...]

    def encode(self, x: Float[Tensor, "windows pos d"]) -> Float[Tensor, "windows pos kept"]:
        """The coordinates that are kept."""
        return x[..., list(self.coordinates)]

    def decode(self, codes: Float[Tensor, "windows pos kept"]) -> Float[Tensor, "windows pos d"]:
        """These, and the mean everywhere else."""
        x = self.mean.to(codes).expand(*codes.shape[:-1], -1).clone()
        x[..., list(self.coordinates)] = codes
        return x


def _examples(
    program: object, roles: Roles, documents: int, split: str, rng: np.random.Generator
) -> Examples:
    shape = (documents * program.length, 1 + program.length)
    inputs = np.full(shape, program.pad, dtype=np.int64)
    inputs[:, 0] = program.bos
    targets = np.zeros(shape, dtype=np.int64 if program.categorical else np.float32)
    spliced = np.zeros(shape, dtype=np.bool_)
    for window in range(len(inputs)):
        length = 1 + window % program.length
        letters = rng.integers(0, len(program.tokens), length)
        answers = roles.answers("".join(program.vocabulary[i] for i in letters))
        values = [program.output_values.index(a) for a in answers] if program.categorical else answers
        inputs[window, 1 : 1 + length] = np.array(program.tokens)[letters]
        targets[window, 1 : 1 + length] = values
        spliced[window, 1 : 1 + length] = True
    names = tuple(f"{split}-{window // program.length}" for window in range(len(inputs)))
    return Examples(inputs, targets, names, spliced)


def _mean(module: torch.nn.Module, site: str, fit: Examples) -> Float[Tensor, " d"]:
    """Mean activation at the spliced positions of `fit`."""
    seen: list[Tensor] = []
    hook = module.get_submodule(site).register_forward_hook(lambda *call: seen.append(call[2]))
    with torch.no_grad():
        module(torch.from_numpy(fit.inputs))
    hook.remove()
    return seen[0][torch.from_numpy(fit.spliced)].mean(0)


def build(seed: int, folder: Path, program: str, documents: int = 200, gain: float = 10.0) -> Built:
    """The compiled `program`, `documents` documents for each split, and interpretations that are known.

    Args:
        program: a key of `PROGRAMS`, and the folder beside this script that it was compiled into.
        gain: logits are this times the one-hot outputs, so that the right class has all but
            (classes − 1) e^(−gain) of the probability.
    """
    script = load_script(folder / "model.py")
    module = script.load_program(folder / program, gain)
    roles, facts = PROGRAMS[program], module.program
    streams = np.random.default_rng(seed).spawn(3)
    examples = {
        split: _examples(facts, roles, documents, split, stream)
        for split, stream in zip(("fit", "calibration", "evaluation"), streams, strict=True)
    }
    mean = _mean(module, roles.site, examples["fit"])
    every = set(range(len(facts.labels)))
    unread = set(facts.coordinates(roles.unread))
    if roles.unread == "tokens":
        unread = {facts.labels.index(f"tokens:{letter}") for letter in facts.vocabulary}
    read = set(torch.nonzero(script.read_later(module, roles.site)).flatten().tolist())
    kept = {
        "drop-needed": every - set(facts.coordinates(roles.needed)),
        "drop-unread": every - unread,
        "keep-all-read": read,
    }
    return Built(
        module=module,
        examples=examples,
        interpretations={name: Kept(mean, tuple(sorted(which))) for name, which in kept.items()},
    )
