"""Data where a Gaussian clone must fail: what the test of docs/digits.md says of third moments.

    python docs/examples/clone_power.py [--page]

Two minutes on one core; writes `clone_power.json` beside this file, `docs/figures/clone-power.png`, and the
block between `<!-- power -->` and `<!-- end -->` of docs/digits.md. With `--page` nothing is trained: page
and figure are written from `clone_power.json` as it is.

Steps:
1. Data. Three signs s₁, s₂, s₃ = ±1 with s₁s₂s₃ = +1 in class 1 and −1 in class 0, otherwise at random;
   five further normal coordinates; normal noise of deviation `NOISE` on the signs; all coordinates of
   variance 1; turned by a fixed rotation. Any two of the signs are independent in both classes, so that
   both have mean 0 and covariance I: their Gaussian clones are one and the same law. Third moments differ,
   E s₁s₂s₃ = ±1.
2. Rungs and sizes are those of `tasks/tiny/digits/clone.py`: `full` is the clone N(μ_c, Σ_c) of the pool
   that it is made from, `perturbative-m` is μ_c + m^(−1/2) times the sum of m residuals of the class,
   `real` the data.
3. Networks of two hidden layers (64 and 32 units, as for digits; scikit-learn) are trained on each rung
   with 10 seeds, on as many examples as there are images for training there, and of the clone also on 20
   times as many. They are tested on as many real examples as there are images for testing.
4. Intervals: 1,000 resamples of test examples and of networks at the same time; value ± 1.96 deviations.

The best classifier of the data multiplies the signs of the three coordinates. It is right in ½(1 + (1 −
2Φ(−1/NOISE))³), and of the clone in ½.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import sklearn
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from remainder.record.json import write_atomically
from remainder.report.palette import BLUE, GREY, VERMILION
from remainder.report.plot import save
from remainder.task.script import load_script

if TYPE_CHECKING:
    import findings_words as words
else:
    words = load_script(Path(__file__).with_name("findings_words.py"))

ROOT = Path(__file__).resolve().parents[2]
FOUND = Path(__file__).with_suffix(".json")
PAGE = ROOT / "docs" / "digits.md"
FIGURE = ROOT / "docs" / "figures" / "clone-power.png"
DIGITS = ROOT / "tasks" / "tiny" / "digits" / "clone.json"

WIDTH, SIGNS, NOISE = 8, 3, 0.35
FIT, HELD_OUT, MANY = 972, 816, 20
SEEDS, RESAMPLES = 10, 1000
ORDERS = (32, 8, 4, 2)
RUNGS = ("full", *(f"perturbative-{m}" for m in ORDERS), "real")
UNLIMITED = f"full, {MANY} times as many"

KEYS = ("value", "low", "high")

Array = NDArray[np.float64]
Classes = NDArray[np.int64]


class Pool(NamedTuple):
    """Examples [n, WIDTH] and their classes [n]."""

    examples: Array
    classes: Classes


def pool(count: int, seed: int) -> Pool:
    """A sample of the data, half of it of each class."""
    generator = np.random.default_rng([0, seed])
    classes = np.arange(count) % 2
    signs = generator.choice([-1.0, 1.0], size=(count, SIGNS))
    signs[:, -1] = np.where(classes == 1, 1.0, -1.0) * signs[:, :-1].prod(1)
    noisy = (signs + NOISE * generator.standard_normal(signs.shape)) / (1 + NOISE**2) ** 0.5
    others = generator.standard_normal((count, WIDTH - SIGNS))
    return Pool(np.concatenate([noisy, others], axis=1) @ rotation(), classes)


def rotation() -> Array:
    """The rotation that hides which coordinates the signs are, [WIDTH, WIDTH]; the same for all samples."""
    turned, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((WIDTH, WIDTH)))
    result: Array = turned
    return result


def best() -> float:
    """The share that the best classifier gets right."""
    return 0.5 * (1 + (1 - 2 * NormalDist().cdf(-1 / NOISE)) ** SIGNS)


def draw(source: Pool, rung: str, count: int, seed: int) -> Pool:
    """A sample of a rung that is made from the means and residuals of `source`, half of it of each class."""
    generator = np.random.default_rng([2, seed])
    classes = np.arange(count) % 2
    examples = np.empty((count, WIDTH))
    for label in (0, 1):
        here, own = classes == label, source.examples[source.classes == label]
        mean = own.mean(0)
        residuals, size = own - mean, int(here.sum())
        if rung == "full":
            noise = generator.standard_normal((size, len(own))) @ residuals / len(own) ** 0.5
        else:
            m = int(rung.removeprefix("perturbative-"))
            noise = residuals[generator.integers(len(own), size=(size, m))].sum(1) / m**0.5
        examples[here] = mean + noise
    return Pool(examples, classes)


def trained(source: Pool, rung: str, seed: int, count: int) -> MLPClassifier:
    """A network trained on `count` examples of a rung of `source`."""
    shown = source if rung == "real" else draw(source, rung, count, seed)
    network = MLPClassifier((64, 32), random_state=seed, max_iter=max(20, 400 * len(source.classes) // count))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a fixed number of steps, as for digits
        return network.fit(shown.examples, shown.classes)


def share(hits: Array, seed: int = 0) -> dict[str, float]:
    """The share of hits [networks, examples] with its interval over both."""
    networks, examples = hits.shape
    generator = np.random.default_rng([3, seed])
    means = [
        hits[generator.integers(networks, size=networks)][
            :, generator.integers(examples, size=examples)
        ].mean()
        for _ in range(RESAMPLES)
    ]
    half = 1.96 * float(np.std(means, ddof=1))
    value = float(hits.mean())
    ends = (value, max(value - half, 0.0), min(value + half, 1.0))
    return {key: round(end, 5) for key, end in zip(("value", "low", "high"), ends, strict=True)}


def measured() -> dict[str, Any]:
    """Accuracy on real examples of networks trained on each rung."""
    fit, held_out = pool(FIT, 0), pool(HELD_OUT, 1)
    plans = [(rung, rung, FIT) for rung in RUNGS] + [(UNLIMITED, "full", MANY * FIT)]
    accuracy = {}
    for name, rung, count in plans:
        networks = [trained(fit, rung, seed, count) for seed in range(SEEDS)]
        hits = np.stack([net.predict(held_out.examples) == held_out.classes for net in networks])
        accuracy[name] = share(hits.astype(float))
        print(f"{name}: {accuracy[name]}", flush=True)
    return {
        "source": "docs/examples/clone_power.py",
        "versions": {"scikit-learn": sklearn.__version__, "numpy": np.__version__},
        "settings": {
            **{"width": WIDTH, "signs": SIGNS, "noise": NOISE, "fit": FIT, "held-out": HELD_OUT},
            **{"networks": SEEDS, "resamples": RESAMPLES},
        },
        "best classifier": round(best(), 5),
        "accuracy": accuracy,
    }


def blocks(found: dict[str, Any], digits: dict[str, Any]) -> dict[str, str]:
    """The block of the page: a table of both data sets, and what it says."""
    names = (*RUNGS, UNLIMITED)
    of_digits = {
        **{rung: digits["accuracy"][f"{rung} → real"] for rung in RUNGS},
        UNLIMITED: digits["accuracy"]["full, unlimited → real"],
    }
    shown = [[name, percent(found["accuracy"][name]), percent(of_digits[name])] for name in names]
    shown[-1][0] += " (digits: unlimited)"
    table = words.table(
        ("trained on", "three signs, tested on real examples", "digits, tested on real images"),
        shown,
        words.Notes(),
    )
    real, clone, many = (found["accuracy"][name] for name in ("real", "full", UNLIMITED))
    apart = digits["differences of accuracy"]["(real → real) − (full, unlimited → real)"]
    sentence = (
        f"On three signs a network that is trained on the data is right in {percent(real)}, of "
        f"{100 * found['best classifier']:.1f} % that are possible. One that is trained on the clone gets "
        f"{percent(clone)}, and {percent(many)} with {MANY} times as many draws: chance is 50 %. The same "
        f"test, network and number of examples that find {percent(apart)} between digits and their clone "
        "find "
        f"{100 * (real['value'] - many['value']):.0f} points here: it can fail, and for digits it did not."
    )
    return {"power": words.stacked(table, words.bullets([sentence]))}


def percent(number: dict[str, float]) -> str:
    """A share with its interval, in per cent."""
    value, low, high = (f"{100 * number[key]:.1f}".replace("-", "−") for key in ("value", "low", "high"))
    return f"{value} % [{low}, {high}]"


def figure(found: dict[str, Any], digits: dict[str, Any]) -> Figure:
    """Accuracy on real data of networks trained along the ladder, of both data sets."""
    drawn = Figure(figsize=(6.4, 3.2), layout="constrained", dpi=150)
    axes = drawn.subplots()
    lines = (
        ("digits", {rung: digits["accuracy"][f"{rung} → real"] for rung in RUNGS}, BLUE, "o"),
        ("three signs", {rung: found["accuracy"][rung] for rung in RUNGS}, VERMILION, "D"),
    )
    for label, numbers, colour, marker in lines:
        values, low, high = (np.array([100 * numbers[rung][key] for rung in RUNGS]) for key in KEYS)
        axes.errorbar(
            range(len(RUNGS)),
            values,
            yerr=np.stack([values - low, high - values]).clip(0),
            **{"color": colour, "marker": marker, "ms": 4, "lw": 1, "capsize": 2, "label": label},
        )
    axes.axhline(50, color=GREY, lw=0.8, ls=":")
    axes.text(len(RUNGS) - 1, 51, "chance, two classes", ha="right", fontsize=7, color=GREY)
    axes.set_xticks(range(len(RUNGS)), ["Gaussian clone", *(f"m = {m}" for m in ORDERS), "real"], fontsize=8)
    axes.set_ylabel("right on real data, %", fontsize=8)
    axes.set_xlabel("trained on: from the clone to the data", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(0, 0.62))
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description="Data where a Gaussian clone must fail.")
    parser.add_argument("--page", action="store_true", help="train nothing: write page and figure")
    if not parser.parse_args().page:
        text = json.dumps(measured(), indent=1, ensure_ascii=False) + "\n"
        write_atomically(FOUND, text.encode())
    found = json.loads(FOUND.read_text(encoding="utf-8"))
    digits = json.loads(DIGITS.read_text(encoding="utf-8"))
    PAGE.write_text(words.filled(PAGE.read_text(encoding="utf-8"), blocks(found, digits)), encoding="utf-8")
    save(figure(found, digits), FIGURE)


if __name__ == "__main__":
    main()
