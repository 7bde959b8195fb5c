"""The ladder of a record in words: it fits, adds up, and says nothing that the intervals do not."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.cells import cell_len
from synthetic_records import fake_hash, synthetic_record
from synthetic_values import histogram
from terminal import Command

from remainder.cli import main as cli
from remainder.errors import RecordError
from remainder.record.couplings import QUICK_GRID
from remainder.record.metrics import DirectionTests, Gaussianity, NullTest, RadiusHistogram, Telescope
from remainder.record.number import Number
from remainder.record.rungs import AROUND, KERNELS, RUNGS
from remainder.record.schema import (
    CalibrationInfo,
    Check,
    ConditionalFit,
    Measurement,
    MethodInfo,
    Record,
    SubmissionInfo,
)
from remainder.record.store import write_record
from remainder.report.explain import explain, rung_frame
from remainder.report.ladder import ladder
from remainder.report.layout import FORMATS

HARNESS = Path(cli.__file__).parents[2]
RECORD = 7

GAPS = {
    "raw": 0.35,
    "mean": 0.33,
    "isotropic": 0.9,
    "diagonal": 0.8,
    "full": 0.57,
    "full-unshrunk": 0.58,
    "linear-mean": 0.30,
    "linear": 0.52,
    "temporal": 0.56,
    "radial": 0.55,
    "perturbative-32": 0.585,
    "perturbative-8": 0.59,
    "perturbative-4": 0.60,
    "perturbative-2": 0.615,
    "permuted": 0.64,
    "permuted-block": 0.60,
    "matched": 0.45,
    "true": 0.0,
    "coupled": 0.41,
    "full-fold-0": 0.58,
    "full-fold-1": 0.56,
    "full-fold-2": 0.59,
    "noise-fitted": 0.12,
    "noise-directional": 0.10,
    "noise-isotropic": 0.05,
}
"""Each rung's mean gap, nats per token."""
NEW = {name: 0.5 for name in RUNGS if name not in GAPS} | dict.fromkeys(AROUND, 0.1)
GAPS |= NEW
GRID = QUICK_GRID


def ladder_values(
    gaps: dict[str, float], *, grid: bool = True, draws: int = 16, spread: float = 0.1, seed: int = 0
) -> pd.DataFrame:
    """Per-document values of any rungs with any gaps, as a run over the whole ladder writes them."""
    generator = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []

    def add(split: str, document: int, rung: str, draw: int, tokens: int, loss: float, **more: Any) -> None:
        row = {"split": split, "document": f"{split}-{document}", "window": 0, "rung": rung, "draw": draw}
        row |= {
            "tokens": tokens,
            "loss": loss,
            "kl": 0.0,
            "top1": tokens,
            "correct": tokens // 2,
            "kl_histogram": "",
            "annealed": None,
        }
        rows.append(row | dict.fromkeys(("residual_ss", "centred_ss", "active", "spliced")) | more)

    for document in range(12):
        tokens = int(generator.integers(90, 127))
        clean = float(generator.lognormal(1.0, 0.3)) * tokens
        add("evaluation", document, "clean", 0, tokens, clean)
        shared = generator.normal(0, spread)
        for rung, gap in gaps.items():
            noise = KERNELS[rung].noise if rung in KERNELS else "none" if rung == "model" else "normal"
            count = 1 if noise == "none" else draws
            unit = 1 if noise == "bank" else 2
            # A rung that comes to the table later leaves the numbers of the others as they are.
            random = np.random.default_rng(document) if rung in NEW else generator
            for draw in range(count):
                kl = (0.02 + abs(gap)) * random.lognormal(-0.125, 0.5, tokens)
                loss = clean + tokens * gap * (1 + shared + random.normal(0, spread / 4))
                more: dict[str, Any] = {"kl": float(kl.sum()), "kl_histogram": histogram(kl)}
                if count > 1 and draw + 1 >= 2 * unit and (draw + 1) % unit == 0:
                    more["annealed"] = loss - tokens * 0.3 * abs(gap)
                if rung == "raw":
                    more |= {"residual_ss": 0.2 * tokens, "centred_ss": 1.0 * tokens + document}
                    more |= {"active": 32 * tokens, "spliced": tokens}
                add("evaluation", document, rung, draw, tokens, loss, **more)
    for document in range(8 if grid else 0):
        tokens = int(generator.integers(90, 127))
        clean = float(generator.lognormal(1.0, 0.3)) * tokens
        add("calibration", document, "clean", 0, tokens, clean)
        for alpha, beta in GRID:
            gap = 0.35 + 0.25 * alpha**2 + generator.normal(0, 0.01)
            annealed = 0.30 + 0.2 * (alpha - 0.66) ** 2 + (beta - 1.01) ** 2 + generator.normal(0, 0.004)
            for draw in range(2):
                loss = clean + tokens * gap
                more = {"annealed": clean + tokens * annealed} if draw == 1 else {}
                add("calibration", document, f"coupled:{alpha:g}:{beta:g}", draw, tokens, loss, **more)
    return pd.DataFrame(rows)


def gaussianity() -> Gaussianity:
    """Of a residual with a spread of scales in 576 dimensions."""
    generator = np.random.default_rng(0)
    radii = np.sqrt(generator.chisquare(576, 4000)) * generator.lognormal(0, 0.18, 4000)
    counts, edges = np.histogram(radii, np.linspace(12, radii.max() * 1.25, 61))
    tests = DirectionTests(
        directions=16,
        skewness=NullTest(value=0.62, null_low=0.0, null_high=0.11),
        kurtosis=NullTest(value=4.1, null_low=0.0, null_high=0.25),
        negentropy=NullTest(value=0.0004, null_low=0.0, null_high=0.0006),
    )
    return Gaussianity(
        rank=576,
        surrogates=60,
        radial_kurtosis=NullTest(value=0.141, null_low=-0.0021, null_high=0.0034),
        directions={"loss gradients": tests, "decoder": tests},
        maximum_kurtosis=NullTest(value=11.3, null_low=-0.14, null_high=0.17),
        radial_gain=Number(value=0.0123, low=0.011, high=0.0141),
        linear_gain=Number(value=0.061, low=0.055, high=0.066),
        radii=RadiusHistogram(
            edges=tuple(float(edge) for edge in edges), counts=tuple(int(count) for count in counts)
        ),
    )


@cache
def measured(gaps: tuple[tuple[str, float], ...]) -> Record:
    """A record of the whole ladder with these gaps, and of everything that values give."""
    values = ladder_values(dict(gaps))
    measurement = Measurement(
        rungs=tuple(rung for rung in RUNGS if rung in dict(gaps)),
        pairs=8,
        annealed_draws=16,
        seed=0,
        dtype="float32",
        suffix="suffix",
        device="cpu",
    )
    calibration = CalibrationInfo(
        documents=40,
        tokens=5000,
        dimension=576,
        shrinkage=0.0412,
        oas=0.0177,
        held_out_mahalanobis=1.07,
        rank=576,
        bank_rows=4096,
        cells=64,
        cells_explained=0.137,
    )
    warnings = ["few calibration tokens: 5,000 for 576 dimensions, where at least 2,880 are wanted"]
    return synthetic_record(values, measurement=measurement, calibration=calibration, warnings=warnings)


def full_record(gaps: dict[str, float] | None = None, *, name: str = "topk-sae-32", **changes: Any) -> Record:
    """A record that holds every optional part; `changes` replace its fields."""
    record = measured(tuple((GAPS if gaps is None else gaps).items()))
    metrics = record.metrics.model_copy(update={"gaussianity": gaussianity()})
    submission = record.submission.model_copy(update={"name": name})
    return record.model_copy(update={"metrics": metrics, "submission": submission} | changes)


def short_record(**changes: Any) -> Record:
    """What a run without `--rungs all` leaves."""
    gaps = {rung: GAPS[rung] for rung in ("raw", "mean", "full", "permuted", "noise-fitted")}
    measurement = Measurement(
        rungs=("raw", "mean", "full", "permuted"),
        pairs=1,
        seed=0,
        dtype="float32",
        suffix="suffix",
        device="cpu",
    )
    values = ladder_values(gaps, grid=False, draws=2)
    return synthetic_record(values, measurement=measurement, **changes)


def with_metrics(record: Record, **changes: Any) -> Record:
    return record.model_copy(update={"metrics": record.metrics.model_copy(update=changes)})


def nested_record() -> Record:
    fine = SubmissionInfo(
        name="fine-one",
        kind="reconstruction",
        files={},
        hash=fake_hash("fine"),
        method=MethodInfo(format=None),
    )
    return full_record({**GAPS, "model": -0.21}, reference=fine)


def term(value: float, half: float = 0.01) -> Number:
    return Number(value=value, low=value - half, high=value + half)


def telescope(shape: Number, dependence: Number, rest: Number, total: Number | None = None) -> Telescope:
    sums = sum(number.value or 0.0 for number in (shape, dependence, rest))
    total = term(sums) if total is None else total
    return Telescope(total=total, shape=shape, dependence=dependence, rest=rest, shrinkage=term(0.0))


def said(record: Record, format: str = "table") -> str:
    """The text in one line."""
    return " ".join(explain(record, format).split())


@pytest.fixture(scope="module")
def record() -> Record:
    return full_record()


# ------------------------------------------------------------------------------------------------ form


KINDS: dict[str, Callable[[], Record]] = {
    "full": full_record,
    "short": short_record,
    "nested": nested_record,
    "huge": lambda: full_record({rung: 2000 * gap for rung, gap in GAPS.items()}),
    "tiny": lambda: full_record({rung: 1e-5 * gap for rung, gap in GAPS.items()}),
    "zero": lambda: full_record(dict.fromkeys(GAPS, 0.0)),
    "negative": lambda: full_record({rung: gap - 0.6 for rung, gap in GAPS.items()}),
    "long name": lambda: full_record(name="a-name-of-very-many-characters-" * 5),
    "bare": lambda: with_metrics(
        short_record(calibration=CalibrationInfo(documents=1, tokens=1, dimension=1)),
        rungs={},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_line_is_longer_than_a_terminal(kind: str) -> None:
    lines = explain(KINDS[kind]()).splitlines()
    assert [line for line in lines if cell_len(line) > 80 or len(line) > 80] == []
    assert "…" not in "".join(lines)  # nothing was cut off to make it fit


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_ends_with_one_newline(record: Record, format: str) -> None:
    text = explain(record, format)
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


def test_colour_only_when_asked(record: Record) -> None:
    assert "\x1b[" not in explain(record)
    assert "\x1b[" in explain(record, color=True)


def test_an_unknown_format_is_an_error(record: Record) -> None:
    with pytest.raises(RecordError, match=r"'html'.*\n.*markdown"):
        explain(record, "html")


@pytest.mark.parametrize("format", ["markdown", "latex"])
def test_signs_of_a_name_stay_text(format: str) -> None:
    odd = full_record(
        name="a|b_c*d*<e>", warnings=("x_y | z\nsecond line",), reference=full_record().submission
    )
    lines = explain(odd, format).splitlines()
    if format == "markdown":
        assert lines[0].startswith(r"**a\|b\_c\*d\*\<e\> on family/task")
        assert r"- ! a\|b\_c\*d\*\<e\>: x\_y \| z second line" in lines
        table = [line for line in lines if line.startswith("|")]
        assert {line.replace("\\|", "").count("|") for line in table} == {6}
        assert len(table) == 2 + len(ladder(odd))
    else:
        assert "% ! a|b_c*d*<e>: x_y | z second line" in lines
        body = lines[lines.index(next(line for line in lines if not line.startswith("%"))) :]
        assert body[0].startswith(r"\begin{tabular}")  # no note broke out of its comment
        assert "\n".join(body).isascii()
        assert {line.count("$") % 2 for line in body} == {0}
        assert {line.count("&") for line in body[2:-2] if not line.startswith("\\")} == {4}
        assert r"$8^{1-n/2}$" in "\n".join(body)


def test_markup_in_a_name_stays_text() -> None:
    assert "[red]a:smile:" in explain(full_record(name="[red]a:smile:"))


# -------------------------------------------------------------------------------------------- the table


def test_rungs_stand_in_the_order_of_the_ladder(record: Record) -> None:
    lines = explain(record).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("──")) + 1
    end = next(i for i, line in enumerate(lines) if i > start and not line)
    shown = [line.split()[0] for line in lines[start:end] if not line.startswith(" ")]
    assert shown == [*RUNGS, "coupled"]
    for name, rung in record.metrics.rungs.items():
        if name in RUNGS:
            (line,) = (line for line in lines[start:end] if line.startswith(f"{name} "))
            assert f" {rung.quenched.gap.value:.3f} [" in line
            assert line.endswith(f"{rung.quenched.kl.value:.3f}") or name == "true"
            annealed = "–¹" if rung.annealed is None else f"{rung.annealed.gap.value:.3f}"
            assert f" {annealed} " in line
    assert "¹ without noise, annealed is quenched" in lines


def test_too_few_draws_are_given_as_the_reason() -> None:
    text = said(short_record())
    assert "annealed losses (from 8 independent units of draws)" in text
    assert "Δ annealed" not in text  # no column of dashes


def test_parts_of_rho_that_the_board_does_not_measure_are_named_and_have_no_dash() -> None:
    text = said(short_record())
    assert "ρ directional, ρ isotropic, ρ₀" in text
    assert "directional –" not in text
    assert " isotropic –" not in text
    # Where they were asked for and are missing all the same, the reason stands there.
    record = short_record()
    asked = record.measurement.model_copy(update={"unmeasured": {"noise-isotropic": "no length"}})
    assert re.search(r"isotropic –. as long", said(record.model_copy(update={"measurement": asked})))


def test_brackets_are_explained_where_there_are_any() -> None:
    record = short_record()
    assert "Brackets" in said(record)
    metrics = record.metrics.model_dump(mode="json")

    def bare(part: Any) -> Any:
        if isinstance(part, dict) and part.get("low") is not None:
            return {"value": part["value"], "low": None, "high": None, "reason": "three documents"}
        return {k: bare(v) for k, v in part.items()} if isinstance(part, dict) else part

    without = record.model_copy(update={"metrics": type(record.metrics).model_validate(bare(metrics))})
    assert "Brackets" not in said(without)


def test_a_rung_that_could_not_be_measured_has_a_dash_and_its_reason() -> None:
    gaps = {rung: gap for rung, gap in GAPS.items() if rung != "matched"}
    record = full_record(gaps)
    unmeasured = {"matched": "too few rows for a cell", "noise-directional": "no length"}
    measurement = record.measurement.model_copy(update={"unmeasured": unmeasured})
    record = record.model_copy(update={"measurement": measurement})
    text = said(record)
    assert re.search(r"matched dependence on x̂ –² –² –² ", text)
    assert "² too few rows for a cell" in text
    assert "rung matched could not be measured (too few rows for a cell)" in text
    assert "noise-directional: no length" in text
    row = rung_frame(record).set_index("rung").loc["matched"]
    assert np.isnan(row["quenched_gap"])
    assert row["reasons"] == "too few rows for a cell"


def test_missing_numbers_have_their_reasons(record: Record) -> None:
    rungs = dict(record.metrics.rungs)
    full = rungs["full"]
    quenched = full.quenched.model_copy(update={"gap": Number.bare(0.5, "three documents")})
    rungs["full"] = full.model_copy(update={"quenched": quenched})
    ratio = record.metrics.gaussian_ratio.model_copy(update={"fitted": Number.null("its denominator is 0")})
    terms = telescope(Number.bare(0.25, "three documents"), term(0.25), Number.null("nothing there"))
    text = said(
        with_metrics(record, rungs=rungs, gaussian_ratio=ratio, telescope=terms, orders=None, bath=None)
    )
    assert full.annealed is not None
    assert f"full correlations: the 0.500 –² {full.annealed.gap.value:.3f} " in text
    assert "= shape 0.250 ² full-unshrunk" in text
    assert "+ rest –³ matched" in text
    assert "fitted –⁴ noise" in text
    for note in ("² three documents", "³ nothing there", "⁴ its denominator is 0"):
        assert note in text


def test_the_frame_holds_the_numbers_of_the_record(record: Record) -> None:
    frame = rung_frame(record).set_index("rung")
    assert list(frame.index) == [*RUNGS, "coupled"]
    for name in frame.index:
        metrics = record.metrics.rungs[name]
        for part in ("loss", "gap", "kl", "kl_p99", "top1", "accuracy"):
            number = getattr(metrics.quenched, part)
            found = [frame.loc[name, f"quenched_{part}{suffix}"] for suffix in ("", "_low", "_high")]
            wanted = [number.value, number.low, number.high]
            assert [None if np.isnan(one) else one for one in found] == wanted
        if metrics.annealed is None:
            assert np.isnan(frame.loc[name, "annealed_gap"])
        else:
            gap = metrics.annealed.gap
            found = [frame.loc[name, f"annealed_gap{suffix}"] for suffix in ("", "_low", "_high")]
            assert found == [gap.value, gap.low, gap.high]
            assert frame.loc[name, "annealed_draws"] == metrics.annealed.draws == 16


def test_csv_and_json_are_the_frame(record: Record) -> None:
    frame = rung_frame(record)
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(explain(record, "csv"))), frame)
    content = json.loads(explain(record, "json"))
    assert content[0]["annealed_gap"] is None
    assert [row["quenched_gap_low"] for row in content] == list(frame["quenched_gap_low"])


# ----------------------------------------------------------------------------------------- the sections


@pytest.mark.parametrize("kind", ["full", "huge", "tiny", "zero", "negative"])
def test_the_terms_add_up_as_printed(kind: str) -> None:
    record = KINDS[kind]()
    lines = explain(record).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("Where the Gaussian gap"))
    found = re.findall(r"(-?[\d.]+)  ± ([\d.]+)", "\n".join(lines[start : start + 9]))
    total, shape, dependence, rest, *apart = (float(value) for value, _ in found)
    places = {len(text.partition(".")[2]) for pair in found for text in pair}
    assert len(places) == 1
    unit = 10.0 ** -places.pop()
    assert abs(total - shape - dependence - rest) < 2.01 * unit  # four roundings of half a unit each
    terms = record.metrics.telescope
    assert terms is not None
    further = () if terms.across_tokens is None else (terms.across_tokens,)
    wanted = (terms.total, terms.shape, terms.dependence, terms.rest, terms.shrinkage, *further)
    shown = (total, shape, dependence, rest, *apart)
    for value, half, number in zip(shown, found, wanted, strict=True):
        assert number.value is not None
        assert number.low is not None
        assert number.high is not None
        assert abs(value - number.value) <= 0.51 * unit
        assert abs(float(half[1]) - (number.high - number.low) / 2) <= 0.51 * unit
    if kind != "zero":
        assert abs(total) > 10 * unit  # the digits say something


@pytest.mark.parametrize(
    ("alpha", "words"),
    [
        (Number(value=0.66, low=0.6, high=0.7), "α* is below 1: less noise"),
        (Number(value=1.4, low=1.3, high=1.5), "α* is above 1: more noise"),
        (Number(value=0.66, low=0.2, high=1.1), None),
        (Number.bare(0.5, "too few documents"), None),
        (Number.null("noise of any amplitude gives the same loss"), None),
    ],
)
def test_what_the_amplitude_of_the_noise_says(record: Record, alpha: Number, words: str | None) -> None:
    couplings = record.metrics.couplings
    assert couplings is not None
    text = said(with_metrics(record, couplings=couplings.model_copy(update={"alpha": alpha, "edge": False})))
    assert ("α* is" in text) is (words is not None)
    assert words is None or words in text
    assert alpha.reason is None or alpha.reason in text
    assert "edge of the grid" not in text
    text = said(with_metrics(record, couplings=couplings.model_copy(update={"edge": True})))
    assert "On the edge of the grid" in text
    assert "α* is" not in text


def test_what_is_below_rounding_is_no_loss(record: Record) -> None:
    telescope = record.metrics.telescope
    assert telescope is not None
    dust = Number(value=5e-8, low=1e-8, high=2e-7)
    names = ("total", "shape", "dependence", "rest", "shrinkage")
    text = said(with_metrics(record, telescope=telescope.model_copy(update=dict.fromkeys(names, dust))))
    assert "No nats are lost" in text
    assert "largest resolved term" not in text


def test_a_part_that_the_residual_does_not_admit_is_named_once(record: Record) -> None:
    bare = with_metrics(record, gaussianity=None)
    measurement = bare.measurement.model_copy(update={"unmeasured": {"gaussianity": "it is constant"}})
    text = said(bare.model_copy(update={"measurement": measurement}))
    assert "gaussianity: it is constant." in text
    assert "Gaussianity. To measure" not in text


def test_the_sections_hold_their_numbers(record: Record) -> None:
    text = said(record)
    metrics, coupled = record.metrics, record.metrics.rungs["coupled"]
    assert metrics.couplings is not None
    assert metrics.perturbative is not None
    assert coupled.annealed is not None
    for needed in (
        f"α* (noise) {metrics.couplings.alpha.value:.3f} [",
        f"β* (source) {metrics.couplings.beta.value:.3f} [",
        f"Δ {coupled.quenched.gap.value:.3f} [",
        f"L_G {metrics.perturbative.limit.value:.3f} [",
        f"fitted {metrics.gaussian_ratio.fitted.value:.2f} [",
        f"isotropic {metrics.gaussian_ratio.isotropic.value:.2f} [",
        "N = 5,000 tokens of 40 documents in d = 576 dimensions, rank 576; N/d = 8.68",
        "shrunk by 0.041; for independent rows (OAS) it would be 0.018",
        "1.07 per dimension",
        "4,096; 64 cells of x̂, which explain 13.7 %",
        "length, κ̂ 0.141 [-0.002, 0.003] outside the null",
        "loss gradients (16): negentropy 0.0004 [0.0000, 0.0006] inside the null",
        "95 % of 60 Gaussian surrogates",
        "radial 0.0123 [0.0110, 0.0141], linear 0.061 [0.055, 0.066]",
        "! topk-sae-32: few calibration tokens",
    ):
        assert needed in text
    folds = [metrics.rungs[f"full-fold-{fold}"].quenched.gap.value or 0.0 for fold in range(3)]
    listed = ", ".join(f"{value:.3f}" for value in folds)
    assert f"without one fold each: {listed} (spread {max(folds) - min(folds):.3f})" in text
    assert "Not in this record" not in text
    assert metrics.telescope is not None
    more = metrics.telescope.model_copy(update={"across_tokens": term(0.0125, 0.002)})
    text = said(with_metrics(record, telescope=more))
    assert re.search(r"apart: across tokens 0\.01\d+ ± 0\.002\d* full-temporal − full", text)
    without = metrics.telescope.model_copy(update={"across_tokens": None})
    assert "apart: across tokens" not in said(with_metrics(record, telescope=without))


def test_where_nothing_was_fitted_nothing_is_said_of_it(record: Record) -> None:
    title = "What the Gaussian was fitted on"
    assert title in said(record)
    none = record.calibration.model_copy(update={"tokens": 0, "documents": 0})
    assert title not in said(record.model_copy(update={"calibration": none}))


def test_failed_checks_are_told() -> None:
    failed = {"true_equals_clean": Check(passed=False, value=2e-3, limit=1e-4)}
    assert "check true_equals_clean failed (value 0.002, limit 0.0001)" in said(full_record(checks=failed))


@pytest.mark.parametrize(
    ("part", "name", "heading"),
    [
        ("telescope", "the terms of the gap", "Where the Gaussian gap comes from"),
        ("perturbative", "cumulants", "As cumulants fade"),
        ("couplings", "couplings", "Amplitudes that predict best"),
        ("calibration_spread", "the spread of refits", "refitted without one fold"),
        ("gaussianity", "Gaussianity", "How Gaussian the residual is"),
    ],
)
@pytest.mark.parametrize("format", ["table", "markdown"])
def test_a_part_that_is_missing_is_named(
    record: Record, part: str, name: str, heading: str, format: str
) -> None:
    assert heading in said(record, format)
    text = said(with_metrics(record, **{part: None}), format)
    assert heading not in text
    assert f"{name}. To measure: run with --rungs all" in text


def test_a_short_record_says_how_to_get_the_rest() -> None:
    text = said(short_record())
    for name in ("the terms of the gap", "cumulants", "couplings", "spread of refits", "Gaussianity"):
        assert name in text
    assert "run with --rungs all" in text
    assert "Where the lost nats live" not in text


def test_nested_records_say_what_clean_is() -> None:
    record = nested_record()
    text = said(record)
    assert "Clean stands for the finer interpretation fine-one everywhere" in text
    gap = record.metrics.rungs["model"].quenched.gap.value
    assert f"The untouched model itself is at Δ {gap:.3f} [" in text
    assert list(rung_frame(record)["rung"])[-1] == "model"
    assert "finer" not in said(full_record())


# ------------------------------------------------------------------------------------------ the reading


@pytest.mark.parametrize(
    ("terms", "words", "unsaid"),
    [
        pytest.param(
            telescope(term(0.1), term(0.05), term(0.4)),
            ["loses 0.550", "largest resolved term is the rest: 0.400 [0.390, 0.410], 73 % of it"],
            ["not resolved", "Unresolved", "other sign"],
            id="one leads",
        ),
        pytest.param(
            telescope(term(0.3), term(0.02, 0.03), term(0.29)),
            [
                "largest resolved term is shape",
                "Whether the rest is larger in size is not resolved",
                "Unresolved, as the interval includes 0: dependence on x̂ 0.020 [-0.010, 0.050]",
            ],
            [],
            id="two overlap",
        ),
        pytest.param(
            telescope(term(0.1), term(0.5, 0.6), term(0.01, 0.02)),
            ["largest resolved term is shape", "Whether dependence on x̂ is larger in size is not resolved"],
            ["Whether dependence on x̂ or the rest"],
            id="the largest is unresolved",
        ),
        pytest.param(
            telescope(term(-0.2), term(0.4), term(0.1)),
            ["is dependence on x̂: 0.400", "Of the other sign: shape -0.200 [-0.210, -0.190]"],
            ["% of it"],
            id="terms cancel",
        ),
        pytest.param(
            telescope(term(0.1, 0.2), term(0.1, 0.2), term(0.1, 0.2), term(0.3, 0.35)),
            ["gap 0.300 [-0.050, 0.650] cannot be told from 0", "None of its three terms is resolved"],
            ["largest"],
            id="nothing is resolved",
        ),
        pytest.param(
            telescope(term(-0.1), term(0.0), term(-0.2)),
            [
                "beats the clean model by Δ -0.300",
                "is the rest: -0.200",
                "67 % of it",
                "Real residuals of like x̂ do better",
            ],
            ["belongs to its own context"],
            id="beats the model",
        ),
        pytest.param(
            telescope(*[Number.bare(0.1, "few documents")] * 3, Number.bare(0.3, "few documents")),
            ["0.300 (no interval) cannot be told from 0", "None of its three terms"],
            ["largest"],
            id="no intervals",
        ),
    ],
)
def test_the_reading_says_no_more_than_the_intervals(
    record: Record, terms: Telescope, words: list[str], unsaid: list[str]
) -> None:
    text = said(with_metrics(record, telescope=terms))
    reading = text[text.index("Where the lost nats live") :]
    for needed in words:
        assert needed in reading
    for unwanted in unsaid:
        assert unwanted not in reading


# ------------------------------------------------------------------------------------- the command line


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A record with all that values give, as files."""
    write_record(measured(tuple(GAPS.items())), ladder_values(GAPS), tmp_path / "x.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_prints_the_text_and_draws_the_figure(written: Path, remainder: Command) -> None:
    shown = remainder("explain", "x.json")
    assert shown.code == 0, shown.err
    assert "+ dependence on x̂" in shown.out
    assert [line for line in shown.out.splitlines() if len(line) > 80] == []
    for name, magic in (("f.png", b"\x89PNG\r\n\x1a\n"), ("f.svg", b"<?xml")):
        assert remainder("explain", "x.json", "--save", name) == shown
        assert (written / name).read_bytes().startswith(magic)
    frame = pd.read_csv(io.StringIO(remainder("explain", "x.json", "--format", "csv").out))
    assert list(frame["rung"]) == [*RUNGS, "coupled"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["x.json", "--save", "f.bmp"], ["f.bmp", ".png or .svg"]),
        (["x.json", "--save", "f"], ["f: unknown kind", ".png or .svg"]),
        (["x.json", "--save", "missing/f.png"], ["missing", "no folder"]),
        (["x.json", "--save", "folder.png"], ["folder.png is a folder"]),
        (["x.json", "--save", "f.png", "--format", "html"], ["'html'", "markdown"]),
        (["y.json", "--save", "f.png"], ["y.json: no such record"]),
        (["broken.json", "--save", "f.png"], ["broken.json"]),
    ],
)
def test_what_goes_wrong_is_told_and_nothing_is_written(
    written: Path, remainder: Command, arguments: list[str], words: list[str]
) -> None:
    (written / "folder.png").mkdir()
    (written / "broken.json").write_text("{")
    before = sorted(written.rglob("*"))
    outcome = remainder("explain", *arguments)
    assert outcome.code == RECORD
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert "To mend it: " in outcome.err
    for word in words:
        assert word in outcome.err
    assert sorted(written.rglob("*")) == before


def test_explaining_needs_no_torch(written: Path) -> None:
    code = (
        "import sys; sys.argv = ['remainder', 'explain', 'x.json', '--save', 'f.png']\n"
        "from remainder.cli.main import app; app(standalone_mode=False)\n"
        "heavy = {'torch', 'transformers', 'transformer_lens', 'sae_lens', 'sklearn'} & set(sys.modules)\n"
        "print(*heavy, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(HARNESS)},
        cwd=written,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.split() == []
    assert (written / "f.png").is_file()


def test_what_tells_of_the_residual_is_shown_with_its_curve_and_the_best_sampler(record: Record) -> None:
    fits = {
        "neighbour": ConditionalFit(
            rows=15000,
            explained=0.245,
            curve={"10541": 0.218, "2032": 0.056, "20320": 0.219},  # the last is of no more than 15,000
            same_token=0.838,
        ),
        "hetero": ConditionalFit(rows=9000, explained=0.848, of="log ‖r − μ‖", surprise=228.68),
        "full": ConditionalFit(rows=9000, explained=None, surprise=239.45),
    }
    calibration = record.calibration.model_copy(update={"conditional": fits, "best": "hetero"})
    found = record.metrics.conditional
    assert found is not None
    update = {"best": "hetero", "found": Number.bare(0.04, "two"), "not_found": Number.bare(0.5, "two")}
    changed = with_metrics(record, conditional=found.model_copy(update=update))
    changed = changed.model_copy(update={"calibration": calibration})
    text = said(changed)
    assert "neighbour 0.245 – 2,032: 0.056 · 10,541: 0.218" in text
    assert "20,320: " not in text
    assert "hetero 0.848 228.7" in text
    assert "full 239.4 the Gaussian residual" in text
    assert "the same input token in 84 % of rows" in text
    assert re.search(r"\+ found 0.040\S* permuted − hetero, the best", text)
    assert re.search(r"\+ not found 0.500\S* hetero − clean: not found with 9,000 rows", text)
    assert "apart: token" in text
    assert all(cell_len(line) <= 80 for line in explain(changed).splitlines())
    without = explain(record)
    assert "No sampler stands for the rest" in " ".join(without.split())
