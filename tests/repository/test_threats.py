"""What docs/threats.md says of interpretations, shown on tiny models; of records, see test_verify.py."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from attacks import ATTACKS, HONEST, Known, figures, table, write
from torch import Tensor

from remainder.base.paths import project_root
from remainder.board.plausibility import check_cost
from remainder.errors import InterpretationError
from remainder.interpretation.protocol import adapt
from remainder.interpretation.references import Codebook, Identity, principal_components
from remainder.interpretation.rules import check_conformance
from remainder.loading.open import at_site, open_task
from remainder.loading.site import LanguageTask
from remainder.measure.plan import plan
from remainder.measure.unexplained import Unexplained
from remainder.record.memorised import check_memorised, unexplained_by
from remainder.record.number import Number
from remainder.record.schema import Record
from remainder.submission.objects import object_submission
from remainder.submission.open import open_submission
from remainder.task.spec import Site
from remainder.task.text import Corpus

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def loaded() -> LanguageTask:
    return tiny.make_loaded()


def record_of(loaded: LanguageTask, thing: Any) -> Record:
    subject = object_submission(thing, "mine")
    record, _ = loaded.measure(subject, plan(loaded.task, "quick"))
    return record


def kl(record: Record, rung: str) -> float:
    value = record.metrics.rungs[rung].quenched.kl.value
    assert value is not None
    return value


class Method(Identity):
    """Codes are the activations; other methods override one step of it."""


class NextPosition(Method):
    """The activation of the next position tells the token there, which is the target."""

    def decode(self, codes: Tensor) -> Tensor:
        return codes + 0.01 * codes.roll(-1, dims=1)


class WindowMean(Method):
    def decode(self, codes: Tensor) -> Tensor:
        return codes.mean(1, keepdim=True).expand_as(codes)


class OtherWindows(Method):
    def decode(self, codes: Tensor) -> Tensor:
        return codes - codes.mean(0)


@pytest.mark.parametrize("method", [NextPosition, WindowMean, OtherWindows])
def test_reading_the_target_is_caught(loaded: LanguageTask, method: type[Method]) -> None:
    with pytest.raises(InterpretationError, match=r"later positions|other windows"):
        record_of(loaded, method())


def test_an_object_that_waits_gets_through(loaded: LanguageTask) -> None:
    """Rules are checked on the first batch. An object can count; what is read from a file cannot."""

    class Waits(Method):
        calls, until = 0, 0

        def decode(self, codes: Tensor) -> Tensor:
            self.calls += 1
            return 0.5 * codes if self.calls <= self.until else codes

    batch = next(loaded.activations("calibration", 16).batches(4))
    waits = Waits()
    check_conformance(adapt(waits, tiny.WIDTH), batch.prefix.x_out, batch.spliced)
    Waits.until = waits.calls
    assert kl(record_of(loaded, Waits()), "raw") < 1e-6
    assert kl(record_of(loaded, tiny.Shrink(0.5, 0.0)), "raw") > 1e-3


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_a_submission_cannot_bring_code(loaded: LanguageTask, tmp_path: Path) -> None:
    head = 'name = "mine"\nkind = "reconstruction"\ntitle = "t"\nauthors = ["a"]\nlicence = "MIT"\n[method]\n'
    (tmp_path / "code.py").write_text("raise SystemExit('it was run')")
    toml = tmp_path / "submission.toml"
    for method in ('format = "python"\npath = "code.py"', 'format = "saelens"\npath = "../elsewhere"'):
        toml.write_text(head + method)
        with pytest.raises(InterpretationError):
            open_submission(tmp_path)
    toml.write_text(f'{head}format = "dictionary-learning"\npath = "."')
    (tmp_path / "config.json").write_text('{"trainer": {"dict_class": "AutoEncoder", "activation_dim": 16}}')
    torch.save({"encoder.weight": Bomb(tmp_path / "exploded")}, tmp_path / "ae.pt")
    with pytest.raises(InterpretationError):
        open_submission(tmp_path).build(loaded.task, lambda: loaded.fit_moments(4))
    assert not (tmp_path / "exploded").exists()


def test_a_memorised_evaluation_shows_in_rho(loaded: LanguageTask) -> None:
    table = loaded.rows("evaluation", 10)
    entries = len(table)
    honest = record_of(loaded, Codebook(loaded.rows("fit")[:entries]))
    memorised = record_of(loaded, Codebook(table))
    rho = [record.metrics.gaussian_ratio.fitted.value for record in (honest, memorised)]
    assert rho[0] is not None
    assert rho[1] is not None
    assert kl(memorised, "raw") < 1e-6 < 0.1 < kl(honest, "raw")
    assert rho[1] < 0.01 < 0.3 < rho[0]
    assert kl(memorised, "full") > 0.1
    live, features = memorised.complexity.live_features.value, memorised.complexity.features
    assert live is not None
    assert features == entries
    assert live < features


def test_digits_packed_into_one_code_are_rounded_before_they_are_unpacked(loaded: LanguageTask) -> None:
    """One real number says which of many entries; undoing that is no linear map. It costs what it carries."""
    table = loaded.rows("fit")[:50]

    class Packed(Codebook):
        def encode(self, x: Tensor) -> Tensor:
            return super().encode(x).argmax(-1, keepdim=True).to(x) + 1

        def decode(self, codes: Tensor) -> Tensor:
            return self.centroids[(codes[..., 0].round().long() - 1).clamp(0, len(self.centroids) - 1)]

    record = record_of(loaded, Packed(table))
    cost = record.complexity
    assert cost.l0.value == 1
    assert cost.coding is not None
    assert cost.coding.unit == "sd"
    assert cost.bits_per_token.value is not None
    assert cost.bits_per_token.value > np.log2(50) - 0.5
    # Where the number is rounded coarser than from entry to entry, another entry comes out.
    assert record.metrics.coding is not None
    coarsest = list(record.metrics.coding.points.values())[-1]
    assert coarsest.kl.value is not None
    assert coarsest.kl.value > 1.05 * kl(record, "raw")


def test_bits_do_not_depend_on_the_scale_of_codes(loaded: LanguageTask) -> None:
    class Scaled(tiny.Shrink):
        scale = 1.0

        def encode(self, x: Tensor) -> Tensor:
            return x * self.scale

        def decode(self, codes: Tensor) -> Tensor:
            return super().decode(codes / self.scale)

    found = []
    for scale in (1.0, 2.0**-8, 2.0**8):
        Scaled.scale = scale
        found.append(record_of(loaded, Scaled()).complexity.bits_per_token.value)
    assert found[0] is not None
    assert found[1:] == [pytest.approx(found[0], rel=5e-3)] * 2


class Around(Method):
    """No code at all; a linear map of the activation goes past."""

    def __init__(self, skipped: Tensor) -> None:
        self.skipped = skipped

    def encode(self, x: Tensor) -> Tensor:
        return torch.zeros(*x.shape[:-1], 1)

    def decode(self, codes: Tensor) -> Tensor:
        return torch.zeros(*codes.shape[:-1], tiny.WIDTH)

    def skip(self, x: Tensor) -> Tensor:
        return x @ self.skipped


class Keeps(Method):
    """`encode` hides the activation where `decode` finds it."""

    def encode(self, x: Tensor) -> Tensor:
        self.kept = x
        return torch.zeros(*x.shape[:-1], 1)

    def decode(self, codes: Tensor) -> Tensor:
        fits = self.kept.shape[:-1] == codes.shape[:-1]
        return self.kept if fits else torch.zeros(*codes.shape[:-1], tiny.WIDTH)


class KeepsTheFirst(Keeps):
    """It keeps what it is given first: encoding something else in between does not tell."""

    def encode(self, x: Tensor) -> Tensor:
        codes = super().encode(x)
        self.kept = self.__dict__.setdefault("first", x)
        return codes


class KeepsByCode(Method):
    """A code says under which number the activation was put away."""

    def __init__(self) -> None:
        self.kept: dict[float, Tensor] = {}

    def encode(self, x: Tensor) -> Tensor:
        codes = x.sum(-1, keepdim=True)
        self.kept |= {float(c): row for c, row in zip(codes.flatten(), x.flatten(0, 1), strict=True)}
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        if codes.shape[1] != tiny.WINDOW:  # when it is asked for single codes
            return codes.expand(*codes.shape[:-1], tiny.WIDTH)
        return torch.stack([self.kept[float(c)] for c in codes.flatten()]).view(*codes.shape[:-1], -1)


@pytest.mark.parametrize("method", [Keeps, KeepsTheFirst])
def test_what_encode_keeps_for_decode_is_refused(loaded: LanguageTask, method: type[Method]) -> None:
    with pytest.raises(InterpretationError, match=r"given again|later positions|decoded after others were"):
        record_of(loaded, method())


def test_what_is_kept_by_codes_has_no_bits(loaded: LanguageTask) -> None:
    """Its decoder seems to be affine, and the pass was by another one."""
    record = record_of(loaded, KeepsByCode())
    assert kl(record, "raw") < 1e-6
    assert record.complexity.bits_per_token.value is None
    assert "is not what they stood for in a pass" in str(record.complexity.bits_per_token.reason)


@pytest.mark.parametrize("rank", [3, tiny.WIDTH])
def test_a_path_past_the_codes_is_refused_where_it_could_be_the_identity(
    loaded: LanguageTask, rank: int
) -> None:
    """Two numbers a token may go past, such as its mean and its scale."""
    axes = torch.diag((torch.arange(tiny.WIDTH) < rank).float())
    with pytest.raises(InterpretationError, match="past its codes goes more than 2 numbers a token"):
        record_of(loaded, Around(axes))
    record_of(loaded, Around(torch.diag((torch.arange(tiny.WIDTH) < 2).float())))


def test_a_path_around_the_codes_is_a_fault() -> None:
    """Past the codes of a transcoder a linear map may go, but a record without any code says nothing else."""
    place = tiny.SITE.replace("hook_resid_pre", "{}")
    hooks = {"hook_in": place.format("mlp.hook_in"), "hook_out": place.format("hook_mlp_out")}
    loaded = tiny.make_loaded(tiny.make_task(site=Site(**hooks, width=tiny.WIDTH)))
    found = next(loaded.activations("fit").batches(10**6))
    x, y = found.prefix.x_in[found.spliced], found.prefix.x_out[found.spliced]
    record = record_of(loaded, Around(torch.linalg.lstsq(x, y).solution))
    assert record.metrics.reconstruction.explained_variance.value > 0.1
    assert record.complexity.bits_per_token.value is None
    assert "past the codes" in str(record.complexity.bits_per_token.reason)
    assert record.metrics.coding is None
    free = record.complexity.model_copy(update={"bits_per_token": Number.bare(0.0, "no codes")})
    forged = record.model_copy(update={"complexity": free})
    assert "reaches the reconstruction another way" in "\n".join(check_cost(forged))


@pytest.mark.parametrize("method", [NextPosition, WindowMean, OtherWindows])
def test_heads_that_look_ahead_are_caught(method: type[Method]) -> None:
    """What heads give is replaced like any other place: theirs of a later position tells the target too."""
    loaded = tiny.make_loaded(tiny.make_task(hook="blocks.2.attn.hook_z"))
    with pytest.raises(InterpretationError, match=r"later positions|other windows"):
        record_of(loaded, method())


def test_what_is_spliced_is_as_coarse_as_its_bits(loaded: LanguageTask) -> None:
    """Rounding loses Δ²/12 a coefficient, and the squared residual of the spliced codes shows it."""
    moments = loaded.fit_moments(20)
    record = record_of(loaded, principal_components(moments, tiny.WIDTH))
    coding, found = record.complexity.coding, record.metrics.coding
    assert coding is not None
    assert found is not None
    variance = float(moments.covariance.trace())
    for point, step in coding.steps.items():
        rounding = tiny.WIDTH * (coding.rms * 2.0 ** (-step / 2)) ** 2 / 12
        assert found.points[point].fvu.value == pytest.approx(rounding / variance, rel=0.3)
    bits = [point.bits.value for point in found.points.values()]
    assert bits == sorted(bits, key=lambda value: -value)


@pytest.mark.parametrize("entries", [2, 16, 200])
def test_a_table_costs_no_more_than_its_index(loaded: LanguageTask, entries: int) -> None:
    """One-hot codes cost at most log2 n + log2 e, whatever they hold, and a bit more where calibration
    has less than one token of many entries."""
    cost = record_of(loaded, Codebook(loaded.rows("fit")[:entries])).complexity
    assert cost.features == entries
    assert cost.bits_per_token.value is not None
    rare = 1.0 if entries == 200 else 0.0
    assert 0 < cost.bits_per_token.value <= np.log2(entries) + np.log2(np.e) + rare


def test_nothing_is_fitted_on_evaluation(loaded: LanguageTask) -> None:
    """Other evaluation documents: other losses, the same fit, calibration and cost."""
    corpus = loaded.corpus
    splits = {split: set(corpus.windows(split).documents) for split in ("fit", "calibration", "evaluation")}
    assert not splits["evaluation"] & (splits["fit"] | splits["calibration"])
    tokens = corpus.tokens.copy()
    for document in splits["evaluation"]:
        start, end = corpus.bounds[corpus.ids.index(document) :][:2]
        tokens[start:end] = tokens[start:end][::-1]
    changed = Corpus(corpus.spec, corpus.splits, tokens, corpus.bounds, corpus.ids, corpus.titles)
    assert loaded.task.model.hub is not None
    other = LanguageTask(loaded.task, loaded.device, 4, None, changed, loaded.given)
    records = [record_of(each, tiny.Shrink()) for each in (loaded, other)]
    first, second = records
    assert torch.equal(loaded.fit_moments(20).mean, other.fit_moments(20).mean)
    assert first.calibration == second.calibration
    assert first.complexity.coding == second.complexity.coding
    assert first.metrics.clean.loss != second.metrics.clean.loss


PAGE = project_root() / "docs" / "threats.md"


def beats_before(row: dict[str, float | str | None], column: str) -> bool:
    """Whether an attack's figure was below those of all honest rows."""
    value = row[column]
    return isinstance(value, float) and all(value < figures()[name][column] for name in HONEST)


def test_the_table_of_attacks_is_that_of_its_figures() -> None:
    assert set(figures()) == {*HONEST, *ATTACKS}
    assert table() in PAGE.read_text(encoding="utf-8")


def test_counts_on_the_page_are_those_of_the_figures() -> None:
    rows = {name: row for name, row in figures().items() if name in ATTACKS}
    columns = ("raw_before", "gaussian_before")
    led = [row for row in rows.values() if any(beats_before(row, column) for column in columns)]
    honest = max(figures()[name]["bits_before"] for name in HONEST)
    cheap = [row for row in led if row["bits_before"] is not None and row["bits_before"] < honest]
    words = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"{len(led)} of {len(rows)} were first in a column, {len(cheap)} of them" in words


def test_no_attack_that_keeps_its_place_beats_an_honest_row() -> None:
    """At equal bits: by efficiency, unless it does as well on a sealed text, as a codebook does."""
    best = max(figures()[name]["efficiency"] for name in HONEST)
    kept = {
        name: row
        for name, row in figures().items()
        if name in ATTACKS and not row["memorised"] and row["holds"] != "no"
    }
    assert len(kept) >= 10
    for name, row in kept.items():
        if row["holds"] == "yes":
            assert row["sealed"] > row["efficiency"] - 0.1, name
        else:
            assert row["efficiency"] is None or row["efficiency"] < best + 0.01, name


@pytest.fixture(scope="module")
def known() -> Known:
    return Known(at_site(open_task("tiny/wiki", device="cpu")))


@pytest.mark.parametrize(
    "name",
    [
        "memorised-evaluation",
        "stealth-tokens",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                "quantised-table",
                "only-at-evaluation",
                "padding",
                "memorised-both",
                "memorised-both-noisy",
                "memorised-all",
                "one-hot",
                "trap-tokens",
            )
        ),
    ],
)
def test_attacks_that_memorise_a_split_fail_the_check(known: Known, name: str) -> None:
    """And no others do; which ones are caught by it the figures say."""
    coder, left, task = ATTACKS[name].make(known), Unexplained(), known.loaded.task
    tier = task.tier(known.tier)
    for split, windows in (
        ("calibration", tier.calibration_windows),
        ("fit", tier.fit_windows),
        ("evaluation", tier.evaluation_windows),
    ):
        for batch in known.loaded.activations(split, windows).batches(8):
            x = batch.prefix.x_out
            left.update(split, batch, x - coder(x.flatten(0, 1)).view_as(x))
    shares = left.shares(task.seed)
    evaluation = shares.pop("evaluation")
    found = check_memorised(shares, unexplained_by(evaluation))  # 1 less a share, whichever way
    assert found.passed is not bool(figures()[name]["memorised"]), found


@pytest.mark.parametrize(
    "name",
    [
        "trap-token",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("offset", "stealth-tokens", "memorised-evaluation")
        ),
    ],
)
def test_figures_of_attacks_are_measured_again(known: Known, name: str, tmp_path: Path) -> None:
    loaded, row = known.loaded, figures()[name]
    subject = open_submission(write(name, known, tmp_path))
    record, _ = loaded.measure(subject, plan(loaded.task, "quick", rungs=("coded",)))
    coding = record.metrics.coding
    assert coding is not None
    point = coding.points["coded"]
    assert record.complexity.bits_per_token.value == pytest.approx(row["bits"], rel=0.02)
    assert point.kl.value == pytest.approx(row["coded"], rel=0.02)
    assert point.efficiency.value == pytest.approx(row["efficiency"], abs=0.03)
    assert bool(record.failed_checks) is bool(row["memorised"])


def test_attacks_on_the_step_gain_nothing() -> None:
    """A planted token and a constant offset once set the step; now the coarse codes are what is scored."""
    for name in ("trap-token", "offset", "trap-tokens"):
        row = figures()[name]
        assert row["bits_before"] < 40
        assert row["efficiency"] < 0


def test_every_test_that_the_page_names_exists() -> None:
    page = (project_root() / "docs" / "threats.md").read_text(encoding="utf-8")
    functions = {
        node.name
        for path in TESTS.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    named = set(re.findall(r"\b(test_\w+)\b(?!\.py)", page))
    assert len(named) > 10
    assert named - functions == set()
    for file in set(re.findall(r"tests/([\w/]+\.py)", page)):
        assert (TESTS / file).is_file(), file
