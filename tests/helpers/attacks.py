"""Folders of weights that try to look better than they are, for tests and for the table in docs/threats.md.

Each attack is a submission in sae-lens' format, without code, made from what anybody has: the public text,
the model, a baseline. `ATTACKS` names them all; `write` makes the folder of one for a task.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from remainder.base.paths import project_root
from remainder.loading.site import SiteTask
from remainder.task.spec import Task

__all__ = ["ATTACKS", "HONEST", "Attack", "Coder", "Known", "figures", "outcome", "table", "write"]

BASE = "wiki-jumprelu"
"""The honest baseline that some of them start from."""

_EDGE = 0.999  # of its own activation, at which a latent that memorised a token fires


class Coder(NamedTuple):
    """Weights of one encoder and one decoder matrix, and which latents are active."""

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    threshold: Tensor | None = None
    """Of a JumpReLU; None: ReLU, or the k largest."""
    k: int | None = None

    def encode(self, x: Tensor) -> Tensor:
        """Codes of rows."""
        h = x @ self.W_enc + self.b_enc
        if self.k is not None:
            values, places = h.topk(self.k, dim=-1)
            return torch.zeros_like(h).scatter(-1, places, values.relu())
        return h.relu() if self.threshold is None else torch.where(h > self.threshold, h.relu(), 0.0)

    def __call__(self, x: Tensor) -> Tensor:
        """The reconstruction of rows."""
        return torch.cat([self.encode(part) @ self.W_dec + self.b_dec for part in x.split(1024)])

    def beside(self, other: Coder) -> Coder:
        """Both together, as one JumpReLU; their reconstructions are added."""

        def both(name: str, axis: int) -> Tensor:
            return torch.cat([getattr(self, name), getattr(other, name)], axis)

        thresholds = [
            torch.zeros(len(part.b_enc)) if part.threshold is None else part.threshold
            for part in (self, other)
        ]
        return Coder(
            both("W_enc", 1),
            both("b_enc", 0),
            both("W_dec", 0),
            self.b_dec + other.b_dec,
            torch.cat(thresholds),
        )


@dataclass(frozen=True)
class Known:
    """What an attacker has: activations of every split of a task's tier, and a baseline."""

    loaded: SiteTask
    tier: str = "quick"
    seed: int = 0

    def _rows(self, split: str) -> Tensor:
        amount = self.loaded.task.tier(self.tier)
        return self.loaded.rows(split, getattr(amount, f"{split}_windows"))  # type: ignore[arg-type]

    @cached_property
    def fit(self) -> Tensor:
        return self._rows("fit")

    @cached_property
    def calibration(self) -> Tensor:
        return self._rows("calibration")

    @cached_property
    def evaluation(self) -> Tensor:
        return self._rows("evaluation")

    @cached_property
    def honest(self) -> Coder:
        """The baseline `BASE`; b_dec is subtracted by the encoder's own bias here."""
        stored = load_file(project_root() / "baselines" / BASE / "weights" / "sae_weights.safetensors")
        weights = {name: value.float() for name, value in stored.items()}
        bias = weights["b_enc"] - weights["b_dec"] @ weights["W_enc"]
        return Coder(weights["W_enc"], bias, weights["W_dec"], weights["b_dec"], weights["threshold"])

    @cached_property
    def mean(self) -> Tensor:
        return self.fit.mean(0)

    @cached_property
    def whitening(self) -> Tensor:
        """The inverse covariance of activations."""
        centred = (self.fit - self.mean).double()
        covariance = centred.T @ centred / len(centred)
        return torch.linalg.inv(covariance + 1e-6 * covariance.trace() * torch.eye(len(covariance))).float()

    @property
    def rms(self) -> float:
        """Root of the trace of the covariance."""
        return float((self.fit - self.mean).square().sum(-1).mean().sqrt())

    @property
    def width(self) -> int:
        return self.fit.shape[1]

    def random(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(self.seed))

    def detectors(self, tokens: Tensor, added: Tensor, *, edge: float = _EDGE) -> Coder:
        """Latents that fire at one token each (or beyond it), and add a row of `added` there."""
        directions = (tokens - self.mean) @ self.whitening
        own = ((tokens - self.mean) * directions).sum(-1)
        weights = directions.T / own
        return Coder(
            weights,
            -(self.mean @ weights),
            added,
            torch.zeros(self.width),
            torch.full((len(tokens),), edge),
        )

    def worst(self, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The rows that the honest baseline rebuilds worst, and what it misses of them."""
        missed = rows - self.honest(rows)
        order = missed.square().sum(-1).topk(count).indices
        return rows[order], missed[order]


def signed(encode: Tensor, decode: Tensor, mean: Tensor) -> Coder:
    """A linear map by pairs of latents, one for either sign: x̂ = mean + (x − mean) encode decode."""
    both = torch.cat([encode, -encode], 1)
    return Coder(both, -(mean @ both), torch.cat([decode, -decode], 0), mean)


def codebook(table: Tensor, shown: Tensor | None = None) -> Coder:
    """The nearest row of a table, by one latent whose code is next to 1; `shown` is what it decodes to."""
    half = table.square().sum(-1) / 2
    scale = 1e-3 / float(half.max())
    centre = float(half.mean())
    own = 1 + scale * (half - centre)  # the code at the row itself
    rows = table if shown is None else shown
    return Coder(
        scale * table.T, 1 - scale * (half + centre), rows / own[:, None], torch.zeros(table.shape[1]), k=1
    )


def identity(known: Known, far: float = 20.0) -> Coder:
    """x̂ = x by codes that are always active, so that which of them are costs nothing."""
    eye, constant = torch.eye(known.width), torch.full((known.width,), far * known.rms)
    return Coder(eye, constant, eye.clone(), -constant)


def _alone(known: Known, tokens: int) -> Tensor:
    """The calibration tokens whose detectors are farthest from firing at any other known token."""
    rows = known.calibration[:2048]
    others = torch.cat([known.calibration, known.evaluation]) - known.mean
    directions = (rows - known.mean) @ known.whitening
    own = ((rows - known.mean) * directions).sum(-1)
    reach = directions @ others.T / own[:, None]
    reach[torch.arange(len(rows)), torch.arange(len(rows))] = -torch.inf
    return rows[reach.amax(1).topk(tokens, largest=False).indices]


def _trap(known: Known, tokens: int, size: float) -> Coder:
    """The identity, and latents that go wrong at calibration tokens which are unlike all others."""
    wrong = size * known.rms * torch.nn.functional.normalize(known.random(tokens, known.width), dim=-1)
    return identity(known).beside(known.detectors(_alone(known, tokens), wrong))


def trap_token(known: Known) -> Coder:
    return _trap(known, 1, 1e5)


def trap_tokens(known: Known) -> Coder:
    return _trap(known, 1200, 30.0)


def offset(known: Known) -> Coder:
    found = identity(known)
    return found._replace(b_dec=found.b_dec + 1e3 * known.rms)


def rotation(known: Known) -> Coder:
    basis, _ = torch.linalg.qr(known.random(known.width, known.width))
    return signed(basis, basis.T, known.mean)


def principal_rotation(known: Known) -> Coder:
    centred = (known.fit - known.mean).double()
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    return signed(vectors.float(), vectors.float().T, known.mean)


def memorised_evaluation(known: Known) -> Coder:
    return codebook(known.evaluation)


def memorised_both(known: Known) -> Coder:
    return codebook(torch.cat([known.calibration, known.evaluation]))


def memorised_both_noisy(known: Known) -> Coder:
    """As the one before, with an error of a tenth of the variance, so that nothing is suspiciously exact."""
    table = torch.cat([known.calibration, known.evaluation])
    return codebook(table, table + known.rms * (0.1 / known.width) ** 0.5 * known.random(*table.shape))


def memorised_all(known: Known) -> Coder:
    """Every split of the tier, with the same error."""
    table = torch.cat([known.calibration, known.evaluation, known.fit])
    return codebook(table, table + known.rms * (0.1 / known.width) ** 0.5 * known.random(*table.shape))


def quantised_table(known: Known) -> Coder:
    """All evaluation tokens, rounded to sixteen levels a coordinate, as a folder of 10 MB has room for."""
    spread = known.evaluation.std(0)
    rounded = ((known.evaluation - known.mean) / (0.4 * spread)).round().clamp(-8, 7)
    return codebook(known.evaluation, known.mean + rounded * 0.4 * spread)


def stealth_tokens(known: Known) -> Coder:
    """The honest baseline, and a latent for each of the 150 evaluation tokens that it rebuilds worst."""
    return known.honest.beside(known.detectors(*known.worst(known.evaluation, 150)))


def stealth_detail(known: Known) -> Coder:
    """The honest baseline, and small dense codes for what a linear map tells of its residual."""
    missed = known.fit - known.honest(known.fit)
    centred = known.fit - known.mean
    fitted = torch.linalg.lstsq(centred, missed - missed.mean(0)).solution
    left, sizes, right = torch.linalg.svd(fitted)
    found = signed(left * sizes, right, known.mean)
    return known.honest.beside(found._replace(b_dec=missed.mean(0)))


def tiny_codes(known: Known) -> Coder:
    """Codes of a millionth behind a decoder of a million."""
    found = identity(known)
    return found._replace(W_enc=found.W_enc * 1e-6, b_enc=found.b_enc * 1e-6, W_dec=found.W_dec * 1e6)


def digits(known: Known) -> Coder:
    """Every code is a thousand times the spread and a little more: only its last digits tell anything."""
    return identity(known, 1000.0)


def one_hot(known: Known) -> Coder:
    """One of as many codes as the fit split has tokens; the cost is that of its number."""
    return codebook(known.fit[: 2**13])


def below_zero(known: Known) -> Coder:
    """Thresholds far below zero, which would let the codes of the identity through, whatever their sign."""
    eye, nothing = torch.eye(known.width), torch.zeros(known.width)
    return Coder(eye, nothing, eye.clone(), nothing.clone(), torch.full((known.width,), -1e6))


def padding(known: Known) -> Coder:
    """The honest baseline, and 20,000 latents that are never active."""
    silent = 20_000
    nothing = Coder(
        torch.zeros(known.width, silent),
        torch.full((silent,), -1.0),
        torch.zeros(silent, known.width),
        torch.zeros(known.width),
    )
    return known.honest.beside(nothing._replace(W_dec=0.1 * known.random(silent, known.width)))


def beyond_the_sink(known: Known) -> Coder:
    """Reconstructions of a norm far beyond that of attention sinks, which are left as they are."""
    found = identity(known)
    limit = known.loaded.task.positions.sink_norm if known.loaded.task.positions is not None else 1e3
    factor = 20.0 * limit / float(known.fit.norm(dim=-1).median())
    return found._replace(W_dec=found.W_dec * factor, b_dec=found.b_dec * factor)


def by_document(known: Known) -> Coder:
    """The honest baseline, and for each evaluation document one latent that knows its tokens."""
    split = known.loaded.activations("evaluation", known.loaded.task.tier(known.tier).evaluation_windows)
    tokens, missed = [], []
    for batch in split.batches(1):
        rows = batch.prefix.x_out[batch.spliced]
        tokens.append(rows.mean(0) + 0.5 * (rows - rows.mean(0)).mean(0))
        left = rows - known.honest(rows)
        missed.append(left.mean(0) - (known.fit[:4096] - known.honest(known.fit[:4096])).mean(0))
    return known.honest.beside(known.detectors(torch.stack(tokens), torch.stack(missed), edge=0.8))


def cancelling(known: Known) -> Coder:
    """Two codes of a hundred times the spread for each coordinate, which nearly cancel."""
    eye, far = torch.eye(known.width), 100.0 * known.rms
    weights = torch.cat([0.5 * eye, -0.5 * eye], 1)
    return Coder(
        weights,
        torch.full((2 * known.width,), far),
        torch.cat([eye, -eye], 0),
        torch.zeros(known.width),
    )


def split_codes(known: Known) -> Coder:
    """Each contribution of the identity dealt out to 32 latents, each of them below half a step."""
    found = identity(known)
    parts = 32
    return Coder(
        found.W_enc.repeat(1, parts),
        found.b_enc.repeat(parts),
        found.W_dec.repeat(parts, 1) / parts,
        found.b_dec,
    )


def dithered(known: Known) -> Coder:
    """Four latents for each coordinate, shifted by a quarter of a step each: their roundings average out."""
    eye, parts = torch.eye(known.width), 4
    far, step = 6.0 * known.rms, 0.3 * known.rms * parts / known.width**0.5
    shifts = torch.cat([torch.full((known.width,), far + step * part / parts) for part in range(parts)])
    return Coder(
        eye.repeat(1, parts),
        shifts,
        eye.repeat(parts, 1) / parts,
        torch.full((known.width,), -float(shifts.mean())),
    )


def only_at_evaluation(known: Known) -> Coder:
    """The honest baseline, and its residual at each evaluation token by a latent that is silent elsewhere."""
    missed = known.evaluation - known.honest(known.evaluation)
    return known.honest.beside(known.detectors(known.evaluation, missed, edge=1 - 1e-5))


def huge_and_rare(known: Known) -> Coder:
    """The identity, and latents of huge norm at a few calibration tokens, two at a token that cancel."""
    found = _trap(known, 20, 0.0)
    huge = 1e4 * known.rms * torch.nn.functional.normalize(known.random(20, known.width), dim=-1)
    chosen = _alone(known, 20)
    return found.beside(known.detectors(chosen, huge)).beside(known.detectors(chosen, -huge))


class Attack(NamedTuple):
    """One way to look better than one is."""

    make: Callable[[Known], Coder]
    says: str
    """What it does, in a few words for a table."""


ATTACKS: dict[str, Attack] = {
    "trap-token": Attack(
        trap_token, "identity; one calibration token is made to go wrong, which sets the step"
    ),
    "offset": Attack(offset, "identity with a constant in b_dec, which the mean takes away again"),
    "rotation": Attack(rotation, "a full-rank rotation in a file"),
    "memorised-evaluation": Attack(memorised_evaluation, "codebook of the evaluation tokens"),
    "memorised-both": Attack(memorised_both, "codebook of the calibration and evaluation tokens"),
    "quantised-table": Attack(quantised_table, "table of the evaluation tokens, rounded to four bits"),
    "stealth-tokens": Attack(stealth_tokens, "honest SAE; its 150 worst evaluation tokens memorised"),
    "stealth-detail": Attack(stealth_detail, "honest SAE; small dense codes carry what it misses"),
    "tiny-codes": Attack(tiny_codes, "identity by tiny codes and a huge decoder"),
    "digits": Attack(digits, "identity in the last digits of large codes (offsets in b_enc)"),
    "one-hot": Attack(one_hot, "2^13 one-hot codes: rows of the fit split"),
    "below-zero": Attack(below_zero, "thresholds far below zero"),
    "padding": Attack(padding, "honest SAE; 20,000 latents that are never active"),
    "beyond-the-sink": Attack(beyond_the_sink, "reconstructions of larger norm than attention sinks"),
    "by-document": Attack(by_document, "honest SAE; one latent for each evaluation document"),
    "cancelling": Attack(cancelling, "identity by large codes that nearly cancel"),
    "split-codes": Attack(split_codes, "identity; each contribution dealt out to 32 latents"),
    "dithered": Attack(dithered, "identity; four shifted latents a coordinate, to lean on the rounding"),
    "only-at-evaluation": Attack(only_at_evaluation, "honest SAE; latents active at evaluation tokens alone"),
    "huge-and-rare": Attack(huge_and_rare, "identity; huge latents at 20 calibration tokens that cancel"),
    "trap-tokens": Attack(trap_tokens, "identity; 1,200 of 2,048 calibration tokens are made to go wrong"),
    "principal-rotation": Attack(principal_rotation, "all principal components in a file"),
    "memorised-both-noisy": Attack(memorised_both_noisy, "the same codebook with an error of a tenth"),
    "memorised-all": Attack(memorised_all, "codebook of fit, calibration and evaluation, the same error"),
}

_TOML = """\
name = "{name}"
kind = "reconstruction"
title = "{says}"
authors = ["nobody"]
licence = "MIT"
tasks = ["{task}"]

[method]
format = "saelens"
path = "weights"
"""


def write(name: str, known: Known, folder: Path) -> Path:
    """Write the folder of the attack `name` into `folder`; gives its path."""
    attack, place = ATTACKS[name], folder / name
    coder = attack.make(known)
    return write_coder(coder, place, known.loaded.task, name, attack.says)


def write_coder(coder: Coder, place: Path, task: Task, name: str, says: str) -> Path:
    """Write weights as a submission for a task, in sae-lens' format; gives its folder."""
    weights = place / "weights"
    weights.mkdir(parents=True, exist_ok=True)
    (place / "submission.toml").write_text(_TOML.format(name=name, says=says, task=task.id))
    tensors = {axis: getattr(coder, axis).contiguous() for axis in ("W_enc", "b_enc", "W_dec", "b_dec")}
    more: dict[str, object] = {"architecture": "standard"}
    if coder.k is not None:
        more = {"architecture": "topk", "k": coder.k, "rescale_acts_by_decoder_norm": False}
    elif coder.threshold is not None:
        more = {"architecture": "jumprelu"}
        tensors["threshold"] = coder.threshold
    config = {
        "d_in": coder.W_enc.shape[0],
        "d_sae": coder.W_enc.shape[1],
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"hook_name": task.site.hook_in, "model_name": task.model.name},
        **more,
    }
    (weights / "cfg.json").write_text(json.dumps(config, indent=1))
    save_file(tensors, weights / "sae_weights.safetensors")
    return place


HONEST = ("wiki-topk", "wiki-jumprelu", "wiki-l1")
"""Baselines that the table of attacks begins with."""


def figures() -> dict[str, dict[str, float | str | None]]:
    """What was measured of each attack, before and now: the rows of docs/attacks.csv by name."""
    path = project_root() / "docs" / "attacks.csv"
    words = {"memorised", "holds"}
    with path.open(encoding="utf-8", newline="") as file:
        return {
            row.pop("name"): {
                name: text if name in words else (float(text) if text else None) for name, text in row.items()
            }
            for row in csv.DictReader(file)
        }


def outcome(name: str, row: dict[str, float | str | None]) -> str:
    """What becomes of an attack now, in a few words."""
    if name in HONEST:
        return "honest; holds on a sealed text"
    if row["memorised"]:
        return "no place: check `memorised`"
    if row["holds"] == "no":
        return f"no place: efficiency {row['sealed']:.2f} on a sealed text"
    if row["holds"] == "yes":
        return f"a codebook at its price: {row['sealed']:.2f} on a sealed text"
    return "gains nothing"


def table() -> str:
    """The table of attacks in Markdown, from `figures`."""
    lines = [
        "| attack | bits | KL raw | KL Gaussian | bits now | KL coded | efficiency | now |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for name, row in figures().items():
        says = f"`{name}`" + (f": {ATTACKS[name].says}" if name in ATTACKS else "")
        columns = ("bits_before", "raw_before", "gaussian_before", "bits", "coded", "efficiency")
        cells = [_cell(row[column]) for column in columns]
        lines.append("| " + " | ".join([says, *cells, outcome(name, row)]) + " |")
    return "\n".join(lines)


def _cell(value: float | str | None) -> str:
    return "–" if value is None else f"{value:.3g}" if isinstance(value, float) else value
