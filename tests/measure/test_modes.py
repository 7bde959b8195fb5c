"""One Gaussian mode a shell: arrays, a linear network in closed form, and the chain against its exact law."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from terminal import Command

from remainder.base.paths import project_root
from remainder.board.listing import record_files
from remainder.build import load_script
from remainder.errors import InterpretationError, RecordError, TaskError
from remainder.loading.open import open_task
from remainder.loading.site import SiteTask
from remainder.measure.modes import RATIOS, SHIFTS, measure_modes
from remainder.measure.plan import plan
from remainder.record.modes import Discretisation, edges_of, rungs_of
from remainder.record.modes_file import read_modes, write_modes
from remainder.record.number import Number
from remainder.report.modes import modes_frame, render_modes
from remainder.residual.modes import Modes, reading_mode, trace_mode
from remainder.submission.objects import object_submission
from remainder.submission.open import submissions_for

CONTROLS = project_root() / "tasks" / "controls"
KEEP = 2
Array = np.ndarray


def random_covariance(width: int = 6, rank: int = 6) -> torch.Tensor:
    factor = torch.randn(width, rank, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return factor @ factor.T


def test_edges_fall_by_the_ratio_and_are_shifted() -> None:
    assert edges_of(32, 2.0, 0.0, 0) == (0, 1, 2, 4, 8, 16, 32)
    assert edges_of(32, 4.0, 0.0, 3) == (3, 8, 32)
    assert edges_of(32, 4.0, 0.5, 0) == (0, 1, 4, 16, 32)
    assert edges_of(5, 1.01, 0.0, 2) == (2, 3, 4, 5)  # one source a shell


def test_modes_keep_what_they_say() -> None:
    covariance, reads = random_covariance(), torch.arange(1.0, 7.0, dtype=torch.float64)
    mode = reading_mode(covariance, reads)
    assert float((reads @ mode) ** 2) == pytest.approx(float(reads @ covariance @ reads))
    # Among all that keep it and leave a covariance, it takes most: Σ − v vᵀ has no negative eigenvalue.
    assert float(torch.linalg.eigvalsh(covariance - torch.outer(mode, mode))[0]) > -1e-9
    power = trace_mode(covariance)
    assert float(power @ power) == pytest.approx(float(covariance.trace()))
    assert not reading_mode(torch.zeros(6, 6, dtype=torch.float64), reads).any()


def test_a_single_source_is_its_own_mode() -> None:
    direction = torch.arange(1.0, 7.0, dtype=torch.float64)
    covariance = torch.outer(direction, direction)
    for mode in (reading_mode(covariance, torch.ones(6, dtype=torch.float64)), trace_mode(covariance)):
        assert torch.allclose(torch.outer(mode, mode), covariance)


def test_noise_has_the_covariance_that_is_given() -> None:
    matrix = random_covariance(rank=2)
    modes = Modes(torch.zeros(6, dtype=torch.float64), matrix)
    assert modes.covariance.rank == 2
    assert torch.allclose(modes.covariance.matrix, matrix)


class Basis:
    """Coordinates in an orthonormal basis, [d, d]: all of them are x."""

    def __init__(self, basis: Array) -> None:
        self.W_dec = torch.from_numpy(basis.T).float()

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.W_dec.T

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return codes @ self.W_dec


def within(number: Number, value: float, errors: float = 3.5) -> bool:
    """Whether a value lies within so many standard errors, or within rounding."""
    assert number.value is not None
    assert number.low is not None
    assert number.high is not None
    return abs(number.value - value) <= max(errors * (number.high - number.low) / 3.92, 1e-6)


@pytest.fixture(scope="module")
def linear() -> tuple[Discretisation, dict[str, float]]:
    """Control H in a random basis, and the losses of its formulas."""
    loaded = open_task("controls/linear-gaussian", device="cpu")
    assert isinstance(loaded, SiteTask)
    basis, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(12, 12)))
    settings = plan(loaded.task, "quick", documents=24)
    entry = object_submission(Basis(basis), "basis")
    found = measure_modes(loaded, entry, settings, order="index", keep=KEEP)
    formulas = load_script(CONTROLS / "linear-gaussian" / "expected.py")
    assert loaded.task.build is not None
    network = formulas.draw(formulas.Parameters(seed=loaded.task.seed, **loaded.task.build.parameters))
    m, s, _, a, b = network
    kept = basis[:, :KEEP] @ basis[:, :KEEP].T

    def loss(noise: float) -> float:
        numbers = (a @ m, a @ kept @ s @ kept @ a, noise, a @ kept @ s @ b, b @ m, b @ s @ b)
        return float(formulas.cross_entropy(formulas.Output(*map(float, numbers))))

    left = basis[:, KEEP:]
    known = {"mean": loss(0.0), "full": loss(float(a @ left @ left.T @ s @ left @ left.T @ a))}
    known["independent"] = loss(float(sum((d @ s @ d) * (a @ d) ** 2 for d in left.T)))
    for ratio in RATIOS:
        losses: dict[str, list[float]] = {"reading": [], "trace": []}
        for shift in SHIFTS:
            power = {"reading": 0.0, "trace": 0.0}
            for low, high in pairwise(edges_of(12, ratio, shift, KEEP)):
                span = basis[:, low:high] @ basis[:, low:high].T
                shell = span @ s @ span
                values, vectors = np.linalg.eigh(shell)
                power["reading"] += float(a @ shell @ a)
                power["trace"] += float(values.sum() * (a @ vectors[:, -1]) ** 2)
            for kind, noise in power.items():
                losses[kind].append(loss(noise))
        known |= {f"{kind} {ratio:g}": float(np.mean(each)) for kind, each in losses.items()}
        known |= {f"{kind} {ratio:g} spread": float(np.ptp(each)) for kind, each in losses.items()}
    return found, known


def test_modes_of_a_linear_network_have_their_closed_form(
    linear: tuple[Discretisation, dict[str, float]],
) -> None:
    found, known = linear
    assert within(found.bath, known["full"] - known["mean"])
    assert within(found.sources_apart, known["independent"] - known["full"])
    for row in found.modes:
        name = f"{row.kind} {row.ratio:g}"
        assert within(row.error, known[name] - known["independent"]), name
        assert row.spread == pytest.approx(known[f"{name} spread"], abs=0.2 * known[f"{name} spread"] + 0.01)


def test_modes_in_every_format(linear: tuple[Discretisation, dict[str, float]]) -> None:
    found, _ = linear
    text = render_modes(found)
    assert max(map(len, text.splitlines())) <= 80
    assert "2 of 12 sources kept (index)" in " ".join(text.split())
    assert "…" not in text
    content = json.loads(render_modes(found, "json"))
    assert [row["error"] for row in content["modes"]] == [row.error.value for row in found.modes]
    assert set(content["values"]["above"]) == set(rungs_of(RATIOS, SHIFTS))
    assert list(modes_frame(found)["ratio"]) == [*RATIOS, *RATIOS]
    assert render_modes(found, "csv").count("\n") == 7
    for format in ("markdown", "latex"):
        assert "shells" in render_modes(found, format)


def test_modes_prove_themselves(
    linear: tuple[Discretisation, dict[str, float]], remainder: Command, tmp_path: Path
) -> None:
    """Every number is computed from the losses of the documents once more."""
    found, _ = linear
    path = write_modes(found, tmp_path)
    assert read_modes(path) == (found,)
    assert record_files(tmp_path)[1] == record_files(path)[1]  # a note, and no fault
    assert "1 file verified: 1 passed" in remainder("verify", str(path)).out
    shown = remainder("explain", str(path), "--save", str(tmp_path / "modes.svg"))
    assert shown.out == render_modes(found)
    assert (tmp_path / "modes.svg").stat().st_size > 10_000
    first, *others = found.modes
    for changed, says in (
        ({"modes": (first.model_copy(update={"spread": 0.5}), *others)}, "modes does not follow"),
        ({"bath": Number.bare(0.0, "forged")}, "bath does not follow"),
        ({"keep": 3}, "modes does not follow"),
        ({"ratios": (2.0, 4.0)}, "its rungs are not those of its ratios"),
        ({"values": found.values.model_copy(update={"tokens": found.values.tokens[1:]})}, "a document is"),
    ):
        forged = write_modes(found.model_copy(update=changed), tmp_path / "forged")
        with pytest.raises(RecordError, match=says):
            read_modes(forged)
    assert remainder("verify", str(forged)).code != 0


@pytest.mark.slow
def test_single_modes_on_the_chain_against_the_exact_law() -> None:
    """The model reads the sum: one mode a shell costs what the exact formula of the whole Gaussian says."""
    loaded = open_task("controls/shell-chain-2", device="cpu")
    assert isinstance(loaded, SiteTask)
    (entry,) = submissions_for(loaded, ["identity"])
    settings = plan(loaded.task, "quick")
    formulas = load_script(CONTROLS / "sums" / "expected.py")
    known = formulas.expected(formulas.Parameters(branching=2, kept=3))
    found = measure_modes(loaded, entry, settings, order="index", keep=3)
    assert within(found.bath, known["full"] - known["mean"])
    # Parts are independent, and correlate on calibration rows by what is left of their evenness.
    assert found.sources_apart.value == pytest.approx(0.0, abs=3e-4)
    for row in found.modes:
        assert within(row.error, 0.0)
        assert row.spread < 0.002


class Square:
    """Decodes to squares: no source has a mode."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x.abs()

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return codes * codes.sum(-1, keepdim=True)


def test_what_has_no_modes_is_refused() -> None:
    loaded = open_task("controls/linear-gaussian", device="cpu")
    assert isinstance(loaded, SiteTask)
    settings = plan(loaded.task, "quick", documents=24)
    with pytest.raises(InterpretationError, match="decoder is not affine"):
        measure_modes(loaded, object_submission(Square(), "square"), settings, order="index")
    (entry,) = submissions_for(loaded, ["subspace"])
    with pytest.raises(TaskError, match="--keep 4: subspace has 4 sources"):
        measure_modes(loaded, entry, settings, order="index", keep=4)


@pytest.mark.slow
def test_the_command(remainder: Command, tmp_path: Path) -> None:
    arguments = ("controls/shell-chain-2", "--with", "identity", "--order", "index", "--keep", "3")
    out = tmp_path / "out"
    foreseen = remainder("modes", *arguments, "--out", str(out), "--estimate")
    assert foreseen.out.startswith("modes of identity, 3 kept\npasses: ")
    assert not out.exists()
    outcome = remainder("modes", *arguments, "--format", "json", "--out", str(out))
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["sources"] == 8
    (kept,) = out.rglob("*.modes")
    assert remainder("explain", str(kept), "--format", "json").out == outcome.out
    assert "no order of keeping" in remainder("modes", *arguments[:3], "--order", "fame").err
