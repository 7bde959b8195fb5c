"""Is reading digits an accident of second moments? The Gaussian clone of the data, and the way back to it.

    python tasks/tiny/digits/clone.py

A quarter of an hour on one core; writes `clone.json` beside this file and `docs/figures/digits-ladder.png`.

Sources: the Gaussian clone is that of Refinetti, Ingrosso and Goldt (2023), "Neural networks trained with
SGD learn distributions of increasing complexity"; the ladder from the clone back to the data is protocol 1,
section 3 (`perturbative-m`), with "residual" = an image minus the mean of its class.

Steps:
1. A pool of images has, for each class c, its mean μ_c and residuals r = x − μ_c. Two pools: `fit`, on which
   networks train, and `held-out` (calibration and evaluation), on which they are tested. A rung is made from
   the moments of its own pool, so that a test never shows images, or their moments, that were trained on.
2. Rungs, each a distribution of labelled images with the class frequencies of its pool:
   mean: μ_c. isotropic: N(μ_c, (tr Σ_c/64) I). diagonal: N(μ_c, diag Σ_c). full, the clone: N(μ_c, Σ_c) with
   Σ_c the covariance of the pool's residuals (divided by n), neither shrunk nor clipped: a draw is
   μ_c + n^{−1/2} Σ_i w_i r_i, w ~ N(0, I), so it has exactly the rank of Σ_c.
   perturbative-m: μ_c + m^{−1/2} Σ_{i≤m} r_π(i), m residuals of the class drawn with replacement: mean and
   covariance are those of the pool for every m, the n-th cumulant is multiplied by m^{1−n/2}. real, the end
   of it: m = 1 is an image of the pool (and the images themselves are taken).
   Two controls: full-clipped, the clone cut to grey values from 0 to 1; full-shrunk, Σ_c shrunk after Ledoit
   and Wolf (2004).
   Two more, to train on only, since a finite sample of a rung has not quite its moments: real-redrawn, images
   drawn with replacement; full-exact, Gaussian draws turned and scaled so that those of each class have the
   mean and covariance of its images exactly.
3. Networks with 10 seeds are trained on every rung of the `fit` pool, with the same recipe (`train.py`), from
   as many examples as there are real ones (each network has its own draw of them), or from fresh draws at
   every step ("unlimited").
4. Numbers are means over networks and images. Intervals: 200 resamples of the held-out documents (each
   rebuilds the pool and its rungs) and, at the same time, of the networks; value ± 1.96 standard deviations.
   Differences are taken within a resample. A percentile interval would not do: a resampled pool holds fewer
   different images, which moves its rungs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from remainder.build import load_script

__all__ = ["CONTROLS", "ORDERS", "RUNGS", "SAMPLES", "Pool", "bayes", "share", "table", "trained"]

HERE = Path(__file__).resolve().parent
FIGURE = HERE.parents[2] / "docs" / "figures" / "digits-ladder.png"

SEEDS, RESAMPLES, COPIES, COPIES_RESAMPLED = 10, 200, 10, 2
ORDERS = (32, 8, 4, 2)
RUNGS = ("mean", "isotropic", "diagonal", "full", *(f"perturbative-{m}" for m in ORDERS), "real")
CONTROLS = ("full-clipped", "full-shrunk")
SAMPLES = ("real-redrawn", "full-exact")

training = load_script(HERE / "train.py")
Array = NDArray[np.float64]


class Pool:
    """Images, their class means and their residuals.

    Args:
        images: [n, 64].
        digits: their classes [n].
    """

    def __init__(self, images: NDArray[Any], digits: NDArray[np.int64]) -> None:
        order = np.argsort(digits, kind="stable")
        self.images: Array = images[order].astype(np.float64)
        self.digits: NDArray[np.int64] = digits[order]
        self.counts = np.bincount(digits, minlength=10)
        self.starts = np.cumsum(self.counts) - self.counts
        self.means: Array = np.stack([part.mean(0) for part in np.split(self.images, self.starts[1:])])
        self.residuals: Array = self.images - self.means[self.digits]
        self._shrunk: list[Array] | None = None

    def covariance(self, digit: int) -> Array:
        """Covariance of a class, divided by the number of its images, [64, 64]."""
        rows = self.of(digit)
        result: Array = rows.T @ rows / len(rows)
        return result

    def of(self, digit: int) -> Array:
        """Residuals of a class."""
        return self.residuals[self.starts[digit] : self.starts[digit] + self.counts[digit]]

    def draw(self, rung: str, digits: NDArray[np.int64], generator: np.random.Generator) -> Array:
        """One image of `rung` for each of `digits`, [len(digits), 64]."""
        kind, _, order = rung.partition("-")
        if kind == "real":
            noise = self._drawn(digits, generator)
        elif kind == "perturbative":
            noise = sum(self._drawn(digits, generator) for _ in range(int(order))) / int(order) ** 0.5
        elif order == "exact":
            noise = self._exact(digits, generator)
        elif kind == "mean":
            noise = np.zeros((len(digits), 64))
        elif kind in ("diagonal", "isotropic"):
            power = np.stack([np.square(self.of(digit)).mean(0) for digit in range(10)])
            if kind == "isotropic":
                power = np.broadcast_to(power.mean(1, keepdims=True), power.shape)
            noise = generator.standard_normal((len(digits), 64)) * np.sqrt(power[digits])
        else:
            noise = self._gaussian(digits, generator, shrunk=order == "shrunk")
        images: Array = self.means[digits] + noise
        return images.clip(0, 1) if order == "clipped" else images

    def _drawn(self, digits: NDArray[np.int64], generator: np.random.Generator) -> Array:
        within = (generator.random(len(digits)) * self.counts[digits]).astype(np.int64)
        return self.residuals[self.starts[digits] + within]

    def _gaussian(self, digits: NDArray[np.int64], generator: np.random.Generator, *, shrunk: bool) -> Array:
        noise = np.empty((len(digits), 64))
        for digit in range(10):
            here = digits == digit
            # Rows of `factor` are as good as residuals: factorᵀ factor is the covariance.
            factor = self._shrunk_factors()[digit] if shrunk else self.of(digit) / self.counts[digit] ** 0.5
            noise[here] = generator.standard_normal((int(here.sum()), len(factor))) @ factor
        return noise

    def _exact(self, digits: NDArray[np.int64], generator: np.random.Generator) -> Array:
        noise = np.empty((len(digits), 64))
        for digit in range(10):
            here = digits == digit
            count = int(here.sum())
            _, sizes, axes = np.linalg.svd(self.of(digit) / self.counts[digit] ** 0.5, full_matrices=False)
            kept = sizes > 1e-9
            normal = generator.standard_normal((count, int(kept.sum())))
            # Orthonormal columns, orthogonal to the constant too: no mean, covariance I / count.
            columns, _ = np.linalg.qr(normal - normal.mean(0))
            noise[here] = count**0.5 * columns @ (sizes[kept, None] * axes[kept])
        return noise

    def _shrunk_factors(self) -> list[Array]:
        if self._shrunk is None:
            covariances = [ledoit_wolf(self.of(digit), assume_centered=True)[0] for digit in range(10)]
            self._shrunk = [np.linalg.cholesky(covariance).T for covariance in covariances]
        return self._shrunk


def bayes(pool: Pool, images: Array) -> NDArray[np.int64]:
    """The best guess of a class, were each class N(μ_c, Σ_c) with the pool's moments (Ledoit–Wolf), [n]."""
    scores = []
    for digit in range(10):
        covariance, _ = ledoit_wolf(pool.of(digit), assume_centered=True)
        root = np.linalg.cholesky(covariance)
        white = np.linalg.solve(root, (images - pool.means[digit]).T)
        scores.append(
            np.log(pool.counts[digit]) - np.log(root.diagonal()).sum() - np.square(white).sum(0) / 2
        )
    result: NDArray[np.int64] = np.argmax(scores, axis=0)
    return result


def trained(pool: Pool, rung: str, seeds: Sequence[int], *, unlimited: bool) -> dict[str, Tensor]:
    """Networks trained on a rung of `pool`, their weights stacked in the order of `seeds`."""
    if rung == "real" and not unlimited:
        images, digits = torch.from_numpy(pool.images).float(), torch.from_numpy(pool.digits)
        return dict(training.train(training.epochs(images, digits, seeds), seeds, None))
    generators = [np.random.default_rng([1, seed]) for seed in seeds]
    if not unlimited:
        drawn = np.stack([pool.draw(rung, pool.digits, generator) for generator in generators])
        digits = torch.from_numpy(pool.digits).expand(len(seeds), -1)
        return dict(
            training.train(training.epochs(torch.from_numpy(drawn).float(), digits, seeds), seeds, None)
        )

    def fresh(step: int) -> tuple[Tensor, Tensor]:
        places = [
            (generator.random(training.BATCH) * len(pool.digits)).astype(np.int64) for generator in generators
        ]
        digits = np.stack([pool.digits[place] for place in places])
        images = [pool.draw(rung, own, gen) for own, gen in zip(digits, generators, strict=True)]
        return torch.from_numpy(np.stack(images)).float(), torch.from_numpy(digits)

    return dict(training.train(fresh, seeds, None))


# ------------------------------------------------------------------------------------------ measurement


def _tested(weights: dict[str, Tensor], pool: Pool, rung: str, copies: int, seed: list[int]) -> Array:
    """Accuracy and cross-entropy (nats) of each network on a rung of `pool`, [2, networks]."""
    if rung == "real":
        images, digits = pool.images, pool.digits
    else:
        digits = np.tile(pool.digits, copies)
        images = pool.draw(rung, digits, np.random.default_rng(seed))
    hits, losses = training.evaluate(weights, torch.from_numpy(images).float(), torch.from_numpy(digits))
    return np.stack([hits.mean(1).numpy(), losses.mean(1).numpy()])


class _Resampled:
    """Quantities with their resamples: `value` [2] and `resamples` [RESAMPLES, 2] of each name."""

    def __init__(self) -> None:
        self.values: dict[str, Array] = {}
        self.resamples: dict[str, list[Array]] = {}

    def number(self, name: str, kind: int, minus: str | None = None) -> dict[str, float]:
        value, resamples = self.values[name][kind], np.stack(self.resamples[name])[:, kind]
        if minus is not None:
            value = value - self.values[minus][kind]
            resamples = resamples - np.stack(self.resamples[minus])[:, kind]
        half = 1.96 * resamples.std(ddof=1)
        ends = np.array([value, value - half, value + half])
        if minus is None:  # what cannot be negative, or above 1, is not stretched to there
            ends = ends.clip(0, 1 if kind == 0 else None)
        return {key: round(float(end), 5) for key, end in zip(("value", "low", "high"), ends, strict=True)}


def main() -> None:
    torch.set_num_threads(1)
    start = time.monotonic()
    splits = training.task.splits()
    fit = Pool(splits["fit"].inputs.reshape(-1, 64), splits["fit"].targets.reshape(-1))
    images = np.concatenate([splits[name].inputs for name in ("calibration", "evaluation")])
    digits = np.concatenate([splits[name].targets for name in ("calibration", "evaluation")])
    pools = {"held-out": Pool(images.reshape(-1, 64), digits.reshape(-1))}
    seeds = list(range(SEEDS))

    networks: dict[str, dict[str, Tensor]] = {}
    for rung in (*RUNGS, *CONTROLS, *SAMPLES):
        networks[rung] = trained(fit, rung, seeds, unlimited=False)
        if rung != "mean" and rung not in SAMPLES:
            networks[f"{rung}, unlimited"] = trained(fit, rung, seeds, unlimited=True)
        print(f"{time.monotonic() - start:5.0f} s  trained on {rung}", flush=True)

    # Everything is tested on real images; the networks of the two ends of the ladder on every rung.
    wanted = [(name, "real") for name in networks]
    wanted += [(name, rung) for name in ("real", "full") for rung in (*RUNGS[:-1], *CONTROLS)]
    found = _Resampled()
    of_networks: dict[str, Array] = {}
    for number, (name, rung) in enumerate(wanted):
        tested = _tested(networks[name], pools["held-out"], rung, COPIES, [2, number])
        of_networks[f"{name} → {rung}"] = tested[0]
        found.values[f"{name} → {rung}"] = tested.mean(1)
    guesses = {"bayes": lambda pool, x: bayes(pool, x), "nearest mean": _nearest}
    for name, guess in guesses.items():
        found.values[name] = np.array(
            [(guess(fit, pools["held-out"].images) == pools["held-out"].digits).mean()]
        )
    for resample in range(RESAMPLES):
        generator = np.random.default_rng([3, resample])
        documents = (generator.random(len(images)) * len(images)).astype(np.int64)
        chosen = (generator.random(SEEDS) * SEEDS).astype(np.int64)
        pool = Pool(images[documents].reshape(-1, 64), digits[documents].reshape(-1))
        for number, (name, rung) in enumerate(wanted):
            tested = _tested(networks[name], pool, rung, COPIES_RESAMPLED, [4, resample, number])
            found.resamples.setdefault(f"{name} → {rung}", []).append(tested[:, chosen].mean(1))
        for name, guess in guesses.items():
            found.resamples.setdefault(name, []).append(
                np.array([(guess(fit, pool.images) == pool.digits).mean()])
            )
        if resample % 50 == 49:
            print(f"{time.monotonic() - start:5.0f} s  {resample + 1} resamples", flush=True)

    # The clone of the training images themselves: the distribution that clone-trained networks saw.
    own = {
        f"{name} → full of fit": round(float(_tested(networks[name], fit, "full", COPIES, [5])[0].mean()), 5)
        for name in ("real", "full", "full, unlimited")
    }
    result = {
        "source": "tasks/tiny/digits/clone.py",
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
        "settings": {
            "networks": SEEDS, "steps": training.STEPS, "batch": training.BATCH, "resamples": RESAMPLES,
            "images": {"fit": len(fit.digits), "held-out": digits.size},
            "documents": {"fit": len(splits["fit"].documents), "held-out": len(images)},
            "rank of Σ_c on fit": [int(np.linalg.matrix_rank(fit.of(digit))) for digit in range(10)],
            "images a class on fit": fit.counts.tolist(),
        },
        "accuracy": {name: found.number(name, 0) for name in found.values},
        "cross_entropy": {name: found.number(name, 1) for name in of_networks},
        "differences of accuracy": {
            f"({first}) − ({second})": found.number(first, 0, second)
            for first, second in (
                ("real → real", "full → real"),
                ("real → real", "full, unlimited → real"),
                ("real → real", "full-exact → real"),
                ("real → real", "real-redrawn → real"),
                ("real-redrawn → real", "full → real"),
                ("perturbative-2, unlimited → real", "real → real"),
                ("real → real", "real → full"),
                ("full → full", "full → real"),
                ("real → real", "perturbative-2 → real"),
                ("full → real", "diagonal → real"),
                ("real → full", "real → diagonal"),
                ("full → real", "bayes"),
            )
        },
        "accuracy, without interval": own,
        "accuracy of each network": {
            name: [round(float(value), 5) for value in values]
            for name, values in of_networks.items()
            if name in ("real → real", "full → real", "real → full")
        },
    }  # fmt: skip
    (HERE / "clone.json").write_text(
        json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    figure(result).savefig(FIGURE, dpi=150)
    print(f"{time.monotonic() - start:5.0f} s  {FIGURE}")


def _nearest(pool: Pool, images: Array) -> NDArray[np.int64]:
    distances = np.square(images[:, None] - pool.means).sum(-1)
    result: NDArray[np.int64] = distances.argmin(1)
    return result


# --------------------------------------------------------------------------------------- table and figure


def share(number: dict[str, float]) -> str:
    """A share with its interval, in per cent."""
    value, low, high = (f"{100 * number[key]:.1f}".replace("-", "−") for key in ("value", "low", "high"))
    return f"{value} % [{low}, {high}]"


def table(result: dict[str, Any]) -> str:
    """Accuracies along the ladder, as the Markdown table of docs/digits.md."""
    accuracy, nats = result["accuracy"], result["cross_entropy"]
    lines = [
        "| rung | trained on real, tested on the rung | cross-entropy of this, nats "
        "| trained on the rung, tested on real | the same, unlimited draws |",
        "|---|---|---|---|---|",
    ]
    for rung in (*RUNGS, *CONTROLS, *SAMPLES):
        tested, unlimited = accuracy.get(f"real → {rung}"), accuracy.get(f"{rung}, unlimited → real")
        loss = nats.get(f"real → {rung}")
        cells = (
            rung,
            "–" if tested is None else share(tested),
            "–" if loss is None else f"{loss['value']:.3f} [{loss['low']:.3f}, {loss['high']:.3f}]",
            share(accuracy[f"{rung} → real"]),
            "–" if unlimited is None else share(unlimited),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def figure(result: dict[str, Any]) -> Figure:
    """Error rate (left) and cross-entropy (right) along the ladder, from class means to real images."""
    drawn = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = drawn.subplots(1, 2)
    lines = (
        ("trained on real images, tested on the rung", "real → {}", "#0072B2", "o"),
        ("trained on the rung, tested on real images", "{} → real", "#D55E00", "D"),
        ("the same, unlimited draws of the rung", "{}, unlimited → real", "#E69F00", "s"),
    )
    for offset, (label, name, colour, marker) in enumerate(lines):
        _line(left, result["accuracy"], name, colour, marker, label, offset, error=True)
        _line(right, result["cross_entropy"], name, colour, marker, label, offset, error=False)
    shown = [rung.replace("perturbative-", "m = ") for rung in RUNGS]
    shown[RUNGS.index("full")] = "full: the\nGaussian clone"
    shown[-1] = "real (m = 1)"
    for axes, title in ((left, "error rate"), (right, "cross-entropy, nats")):
        axes.set_xticks(range(len(RUNGS)), shown, rotation=45, ha="right", fontsize=8)
        axes.set_ylim(bottom=0)
        axes.set_title(title, fontsize=9, loc="left", fontweight="bold")
        axes.spines[["top", "right"]].set_visible(False)
    drawn.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False
    )
    return drawn


def _line(
    axes: Axes, numbers: dict[str, Any], name: str, colour: str, marker: str, label: str, offset: int,
    *, error: bool,
) -> None:  # fmt: skip
    places = [i for i, rung in enumerate(RUNGS) if name.format(rung) in numbers]
    found = [numbers[name.format(RUNGS[i])] for i in places]
    values = np.array([[number[key] for key in ("value", "low", "high")] for number in found])
    if error:
        values = 1 - values[:, [0, 2, 1]]
    middle, low, high = values.T
    axes.errorbar(
        np.array(places) + 0.08 * (offset - 1), middle, yerr=np.stack([middle - low, high - middle]).clip(0),
        color=colour, marker=marker, ms=4, lw=1, capsize=2, label=label,
    )  # fmt: skip


if __name__ == "__main__":
    main()
