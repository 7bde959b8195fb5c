"""The task tiny/digits and the Gaussian clone of its data."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file
from scipy.special import log_softmax
from scipy.stats import moment, multivariate_normal
from sklearn.covariance import LedoitWolf

from remainder.api import evaluate
from remainder.base.paths import project_root
from remainder.task.script import load_script

ROOT = project_root()
FOLDER = ROOT / "tasks" / "tiny" / "digits"


@cache
def _script(name: str) -> Any:
    return load_script(FOLDER / name)


@cache
def _splits() -> dict[str, Any]:
    splits: dict[str, Any] = _script("build.py").splits()
    return splits


@cache
def _found() -> Any:
    return json.loads((FOLDER / "clone.json").read_text(encoding="utf-8"))


def _rows(*names: str) -> tuple[NDArray[Any], NDArray[Any]]:
    parts = [_splits()[name] for name in names]
    return (
        np.concatenate([part.inputs.reshape(-1, 64) for part in parts]),
        np.concatenate([part.targets.reshape(-1) for part in parts]),
    )


def _hidden(images: NDArray[Any]) -> NDArray[Any]:
    """The site's activations, by numpy alone."""
    w = load_file(FOLDER / "weights.safetensors")
    return np.maximum(images @ w["first.weight"].T + w["first.bias"], 0)


def _read_out(hidden: NDArray[Any]) -> NDArray[Any]:
    w = load_file(FOLDER / "weights.safetensors")
    second = np.maximum(hidden @ w["second.weight"].T + w["second.bias"], 0)
    return second @ w["readout.weight"].T + w["readout.bias"]


def _cross_entropy(logits: NDArray[Any], digits: NDArray[Any]) -> float:
    return float(-np.take_along_axis(log_softmax(logits, -1), digits[..., None], -1).mean())


# ------------------------------------------------------------------------------------------------ the task


def test_splits_share_no_document_and_no_image() -> None:
    counts = {name: len(part.documents) for name, part in _splits().items()}
    assert counts == {"evaluation": 40, "calibration": 28, "fit": 81}
    names = [name for part in _splits().values() for name in part.documents]
    assert len(set(names)) == 149
    images, digits = _rows("fit", "calibration", "evaluation")
    assert len(np.unique(images, axis=0)) == len(images) == 149 * 12
    assert images.min() == 0
    assert images.max() == 1
    assert set(digits.tolist()) == set(range(10))


def test_other_images_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    script = _script("build.py")
    data = script.load_digits()
    data.data[0, 20] += 1
    monkeypatch.setattr(script, "load_digits", lambda: data)
    with pytest.raises(ValueError, match="other images than those trained on"):
        script.splits()


def test_weights_give_what_the_log_says() -> None:
    summary = json.loads((FOLDER / "train.log").read_text(encoding="utf-8").splitlines()[-1])
    for name in ("fit", "calibration", "evaluation"):
        images, digits = _rows(name)
        logits = _read_out(_hidden(images))
        assert len(digits) == summary[f"{name}_images"]
        accuracy = float((logits.argmax(-1) == digits).mean())
        assert accuracy == pytest.approx(summary[f"{name}_accuracy"], abs=3e-3)
        loss = _cross_entropy(logits, digits)
        assert loss == pytest.approx(summary[f"{name}_cross_entropy"], rel=1e-3, abs=1e-4)


def test_harness_gives_the_gap_of_a_codebook() -> None:
    images, digits = _rows("evaluation")
    hidden = _hidden(images)
    centroids = load_file(ROOT / "baselines" / "digits-codebook-32" / "codebook.safetensors")["centroids"]
    nearest = centroids[np.square(hidden[:, None] - centroids).sum(-1).argmin(-1)]
    clean = _cross_entropy(_read_out(hidden), digits)
    gap = _cross_entropy(_read_out(nearest), digits) - clean
    record = evaluate("tiny/digits", "digits-codebook-32", rungs=["raw", "full"]).record
    assert record.documents.documents == 40
    assert record.metrics.clean.loss.value == pytest.approx(clean, rel=1e-4)
    assert record.metrics.rungs["raw"].quenched.gap.value == pytest.approx(gap, abs=1e-4)


# ------------------------------------------------------------------------------------------------ the clone


@cache
def _pool() -> Any:
    return _script("clone.py").Pool(*_rows("fit"))


DIGIT, DRAWS = 3, 60_000


@cache
def _drawn(rung: str) -> NDArray[Any]:
    drawn: NDArray[Any] = _pool().draw(rung, np.full(DRAWS, DIGIT), np.random.default_rng(0))
    return drawn


def _own() -> NDArray[Any]:
    images, digits = _rows("fit")
    own: NDArray[Any] = images[digits == DIGIT].astype(float)
    return own


@pytest.mark.parametrize("rung", ["full", "perturbative-32", "perturbative-2", "real"])
def test_rungs_from_the_clone_on_have_mean_and_covariance_of_the_images(rung: str) -> None:
    own, drawn = _own(), _drawn(rung)
    np.testing.assert_allclose(drawn.mean(0), own.mean(0), atol=0.01)
    expected = np.cov(own.T, ddof=0)
    error = np.linalg.norm(np.cov(drawn.T) - expected) / np.linalg.norm(expected)
    assert error < 0.02


@pytest.mark.parametrize(("rung", "m"), [("real", 1), ("perturbative-2", 2), ("perturbative-8", 8)])
def test_third_and_fourth_cumulants_fade_as_they_must(rung: str, m: int) -> None:
    # Along fixed directions, so that the expected values are those of the pool's images alone.
    directions = np.random.default_rng(1).choice([-1.0, 1.0], size=(64, 6)) / 8
    own, drawn = _own() @ directions, _drawn(rung) @ directions
    for order in (3, 4):
        gaussian = 3 * own.var(0) ** 2 if order == 4 else 0.0
        expected = (moment(own, order) - gaussian) * m ** (1 - order / 2)
        found = moment(drawn, order) - (3 * drawn.var(0) ** 2 if order == 4 else 0.0)
        noise = 4 * own.std(0) ** order * (15 if order == 3 else 96) ** 0.5 / DRAWS**0.5
        assert (np.abs(found - expected) < noise).all()


def test_clone_is_gaussian_and_leaves_the_span_of_its_class_nowhere() -> None:
    own, drawn = _own(), _drawn("full")
    centred = drawn - own.mean(0)
    basis = np.linalg.svd(own - own.mean(0), full_matrices=False)
    outside = centred - centred @ basis.Vh[basis.S > 1e-9].T @ basis.Vh[basis.S > 1e-9]
    assert np.abs(outside).max() < 1e-9
    along = centred @ basis.Vh[:10].T
    assert np.abs(moment(along, 3) / along.var(0) ** 1.5).max() < 5 * (6 / DRAWS) ** 0.5
    assert np.abs(moment(along, 4) / along.var(0) ** 2 - 3).max() < 5 * (24 / DRAWS) ** 0.5


def test_lower_rungs_have_only_their_own_moments() -> None:
    variances = _own().var(0)
    np.testing.assert_allclose(_drawn("diagonal").var(0), variances, rtol=0.03, atol=1e-12)
    np.testing.assert_allclose(_drawn("isotropic").var(0), variances.mean(), rtol=0.03)
    np.testing.assert_allclose(_drawn("mean"), np.broadcast_to(_own().mean(0), (DRAWS, 64)), atol=1e-12)
    clipped = _drawn("full-clipped")
    np.testing.assert_array_equal(clipped, _drawn("full").clip(0, 1))
    shrunk = np.cov(_drawn("full-shrunk").T)
    expected = LedoitWolf().fit(_own()).covariance_
    assert np.linalg.norm(shrunk - expected) / np.linalg.norm(expected) < 0.02


def test_bayes_classifier_of_the_clone_again_by_scipy() -> None:
    images, digits = _rows("calibration", "evaluation")
    fit, labels = _rows("fit")
    scores = []
    for digit in range(10):
        own = fit[labels == digit].astype(float)
        fitted = multivariate_normal(own.mean(0), LedoitWolf().fit(own).covariance_)
        scores.append(fitted.logpdf(images) + np.log(len(own)))
    accuracy = float((np.argmax(scores, axis=0) == digits).mean())
    assert _found()["accuracy"]["bayes"]["value"] == pytest.approx(accuracy, abs=2e-3)


def test_exact_sample_has_the_moments_of_the_images() -> None:
    own, pool = _own(), _pool()
    drawn = pool.draw("full-exact", pool.digits, np.random.default_rng(0))[pool.digits == DIGIT]
    np.testing.assert_allclose(drawn.mean(0), own.mean(0), atol=1e-9)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(own.T), atol=1e-9)
    # It is another sample: no image is in it.
    assert np.square(drawn[:, None] - own).sum(-1).min() > 0.1


@pytest.mark.slow
def test_first_network_of_the_script_again() -> None:
    clone, training = _script("clone.py"), _script("train.py")
    images, digits = (training.torch.from_numpy(part) for part in _rows("calibration", "evaluation"))
    weights = clone.trained(_pool(), "real", [0], unlimited=False)
    hits, _ = training.evaluate(weights, images, digits)
    # Which of the hard images a network misses hangs on rounding, which is the machine's own.
    expected = _found()["accuracy of each network"]["real → real"][0]
    assert float(hits.mean()) == pytest.approx(expected, abs=0.01)


def test_page_says_what_was_measured() -> None:
    page = (ROOT / "docs" / "digits.md").read_text(encoding="utf-8")
    table = _script("clone.py").table(_found())
    assert table in page
    page = re.sub(r"<!-- power -->.*?<!-- end -->", "", page, flags=re.DOTALL)  # held by test_clone_power.py
    # Numbers of the text in the form "93.9 % [92.3, 95.4]" are those of the results, too.
    known = {
        _script("clone.py").share(number)
        for part in ("accuracy", "differences of accuracy")
        for number in _found()[part].values()
    }
    quoted = re.findall(r"−?[\d.]+ % \[[^\]]*\]", page)
    assert len(quoted) > 3
    assert set(quoted) <= known
