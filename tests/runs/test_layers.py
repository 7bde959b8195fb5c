"""Layers, end to end: two sites of a linear network in closed form, and what must hold of any chain."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from terminal import Command

from remainder.base.paths import project_root
from remainder.board.listing import record_files
from remainder.build import load_script
from remainder.errors import RecordError, TaskError
from remainder.interpretation.protocol import adapt
from remainder.interpretation.references import Identity
from remainder.loading.loaded import LoadedTask
from remainder.loading.open import open_task
from remainder.measure.keeping import Sources
from remainder.measure.layers import STEP, Layered, Measured
from remainder.measure.layers_estimate import estimate_layers
from remainder.measure.plan import plan
from remainder.measure.several_sites_fit import SiteNoise
from remainder.record.layers import STATEMENTS, Layers, rungs_of
from remainder.record.layers_file import LAYERS, layers_place, read_layers, write_layers
from remainder.report.layers import COLUMNS, PARTS, layers_frame, render_layers
from remainder.report.plot import save
from remainder.report.plot_layers import layers_figure
from remainder.residual.moments import Moments
from remainder.residual.noise import Draw
from remainder.runs.layers import layers_plan, measured_layers, plan_layers
from remainder.submission.objects import object_submission
from remainder.submission.open import submissions_for
from remainder.submission.submission import Entry
from remainder.task.spec import load_task
from remainder.validation.claims import parse_quantity, read_claims
from remainder.validation.layers import measure_layers_of

SITES = ("controls/two-sites-1", "controls/two-sites-2")
CONTROL = project_root() / "tasks" / "controls" / "two-sites"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("layers")


@pytest.fixture(scope="module")
def loaded() -> list[LoadedTask]:
    return [open_task(task, device="cpu") for task in SITES]


@pytest.fixture(scope="module")
def entries(loaded: list[LoadedTask]) -> list[Entry]:
    return [submissions_for(one, ["subspace"])[0] for one in loaded]


@pytest.fixture(scope="module")
def measured(loaded: list[LoadedTask], entries: list[Entry], place: Path) -> Layers:
    settings = layers_plan(loaded, "quick", 12, pairs=1, calibration=16)
    return measured_layers(plan_layers(loaded, entries, settings, keeps=[4, 0, 0]), place)


# -------------------------------------------------------------------------------------------- what is known


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 4])
def test_layers_of_a_linear_network_have_their_closed_form(seed: int) -> None:
    """Every claim of the control, within four standard errors beyond its allowance."""
    script, beside = (load_script(CONTROL / name) for name in ("expected.py", "layers.py"))
    claims = read_claims(beside, seed, {"site": 2}, "here", more=True)
    assert len(claims) > 20
    (name,) = {claim.interpretation for claim in claims}
    quantities = [claim.quantity for claim in claims]
    found = measure_layers_of(script, "here", name, seed, "quick", "cpu", quantities)
    for claim in claims:
        value = found.read(claim.quantity)
        off = max(abs(value.value - claim.expected) - claim.allowance, 0)
        assert off <= 4 * value.error + 1e-6, (claim, value)
    with pytest.raises(Exception, match="power raw at 1 has no value: nothing lies below it"):
        found.read(parse_quantity("4: power raw at 1", "here"))
    with pytest.raises(Exception, match="there are 2 sites"):
        found.read(parse_quantity("4: power raw at 3", "here"))


def test_claims_on_layers_are_of_the_second_site_alone() -> None:
    beside = load_script(CONTROL / "layers.py")
    assert beside.claims(1, site=1) == {}
    script = load_script(CONTROL / "expected.py")
    with pytest.raises(TaskError, match="is of 3 sites, and SITES names 2"):
        measure_layers_of(script, "here", "a + b + c across layers", 1, "quick", "cpu", [])


def test_where_nothing_below_is_coarse_grained_sequential_is_single_shot(
    measured: Layers, loaded: list[LoadedTask], entries: list[Entry], place: Path
) -> None:
    """To the last digit: at the first site, and above a site whose remainder is nothing."""
    for shell in measured.shells:
        first = shell.sites[0]
        assert first.raw_given == shell.rungs["raw 1"].gap
        assert first.gaussian_given == shell.rungs["full 1"].gap
    settings = layers_plan(loaded, "quick", 4, pairs=1, calibration=4)
    identity = submissions_for(loaded[0], ["identity"])
    found = measured_layers(plan_layers(loaded, [*identity, entries[1]], settings, keeps=[8]), place)
    (shell,) = found.shells
    second = shell.sums.sites[1]
    assert second.remainder["raw"] == second.remainder["gaussian"] == second.remainder["alone"]
    assert shell.fits[1].raw == shell.fits[1].gaussian == shell.fits[1].alone
    for kind in ("raw", "full"):
        assert shell.sums.rungs[f"{kind} to 2"] == shell.sums.rungs[f"{kind} 2"]
    assert shell.sums.rungs["sequential to 2"] == shell.sums.rungs["full 2"]
    assert shell.sites[1].power_raw.value == 1
    assert shell.sites[1].gaussian_to_linear.reason == "nothing is left over"
    assert shell.fits[1].arrived is not None
    assert shell.fits[1].arrived.gaussian_to_linear is None


def test_a_sweep_with_nothing_below_is_the_untouched_model(
    loaded: list[LoadedTask], entries: list[Entry]
) -> None:
    """Moments of the way that is taken above the first site, taken at the first site itself."""
    settings = layers_plan(loaded, "quick", 4, pairs=1, calibration=4)
    planned = plan_layers(loaded, entries, settings, keeps=[2])
    with torch.no_grad():
        found = Measured(planned.chain, planned.keeps, settings, lambda *_: None)
        found.calibrate()
        for batch, entry in found.batches("calibration", "again"):
            found._given_below(batch, entry, 2, 0)
    cost = estimate_layers(planned.chain, planned.keeps, settings)
    assert (cost.calibration, cost.evaluation) == (4, 4)
    assert cost.seconds > 0
    assert "4 of calibration" in cost.lines()[0]
    parts = found.fitted[2][0].remainder
    for below in ("raw", "gaussian"):
        again, alone = (Moments.merged(parts[name].parts) for name in (below, "alone"))
        assert torch.equal(again.mean, alone.mean)
        assert torch.equal(again.scatter, alone.scatter)


HOOKS = ("blocks.1.hook_resid_pre", "blocks.3.hook_resid_pre")


@pytest.mark.slow
def test_what_arrives_linearly_is_the_derivative_of_the_map_between_the_sites() -> None:
    """Against forward-over-reverse differentiation of a pass with hooks of its own; noise at all tokens."""
    loaded = [tiny.make_loaded(tiny.make_task(hook=hook)) for hook in HOOKS]
    shrink = tiny.Shrink(0.8, 0.1)
    sizes = torch.ones(tiny.WIDTH)
    chain = [Layered(one, Sources(adapt(shrink, tiny.WIDTH), "dynamic", 5, sizes=sizes)) for one in loaded]
    settings = plan(loaded[0].task, "quick", rungs=("raw", "full"))._replace(calibration_windows=12)
    with torch.no_grad():
        found = Measured(chain, (tiny.WIDTH,), settings, lambda *_: None)
        found.calibrate()
        batch, entry = next(found.batches("evaluation", "once"))
        noise = found.fitted[tiny.WIDTH][0].single
        small = SiteNoise(noise.name, replace(noise.covariance, values=noise.covariance.values * 1e-2))
        found.fitted[tiny.WIDTH][0].single = small
        clean = found._seen(batch, entry, found.sites[tiny.WIDTH][1], []).x
        arrived = found._arrivals(batch, entry, tiny.WIDTH, 1, clean, Draw(0))
    bridge, mask = loaded[0].runner("float32").bridge, batch.spliced[HOOKS[0]][..., None]
    x = found._untouched(batch, entry)[tiny.WIDTH][0].x
    epsilon = (small.sample(batch.places, Draw(0), x.shape[1]) - small.mean).float()
    base = shrink.decode(shrink.encode(x)) + small.mean.float()

    def above(added: torch.Tensor) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        put: Callable[..., Any] = lambda value, hook: torch.where(mask, base + added, value)  # noqa: E731
        hooks = [(HOOKS[0], put), (HOOKS[1], lambda value, hook: seen.append(value))]
        bridge.run_with_hooks(batch.inputs, fwd_hooks=hooks)
        return seen[0]

    _, derivative = torch.autograd.functional.jvp(above, torch.zeros_like(base), epsilon)
    size = float(derivative.norm())
    assert size > 0
    assert float((arrived["linear"] - derivative).norm()) < 2e-3 * size
    assert float((arrived["gaussian"] - above(epsilon) + above(0 * epsilon)).norm()) < 1e-3 * size
    assert float((arrived["real"] - x_less(clean, above(0 * epsilon))).norm()) < 1e-3 * size
    assert 0 < STEP < 1


def x_less(clean: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    return clean.double() - base.double()


# ---------------------------------------------------------------------------------- what is kept, and shown


def test_layers_are_found_again_and_prove_themselves(
    measured: Layers, loaded: list[LoadedTask], entries: list[Entry], place: Path, tmp_path: Path
) -> None:
    path = layers_place(measured.chain, place)
    assert path.parent == place / "controls" / "two-sites-2" / "2"
    assert path.stat().st_size < 200_000
    assert read_layers(path) == measured
    written = path.stat().st_mtime_ns
    settings = layers_plan(loaded, "quick", 12, pairs=1, calibration=16)
    assert measured_layers(plan_layers(loaded, entries, settings, keeps=[0, 4]), place) == measured
    assert path.stat().st_mtime_ns == written
    # Nothing but a note for a checker.
    records, remarks = record_files(path)
    assert records == []
    assert [remark.is_fault for _, remark in remarks] == [False]
    # Its own hash may be made to fit, what follows from its sums may not.
    shell = measured.shells[0]
    rung = shell.rungs["raw to 2"]
    wrong = rung.gap.model_copy(update={"value": 0.001})
    rungs = {**shell.rungs, "raw to 2": rung.model_copy(update={"gap": wrong})}
    number = shell.model_copy(update={"rungs": rungs})
    turned = {**measured.statements, "noise": measured.statements["noise"][::-1]}
    turned["noise"] = tuple(one.model_copy(update={"holds": not one.holds}) for one in turned["noise"])
    for update, words in (
        ({"shells": (number, *measured.shells[1:])}, "with 0 kept, rungs do not follow from the sums"),
        ({"statements": turned}, "what it says of noise does not follow from the sums"),
    ):
        forged = write_layers(measured.model_copy(update=update), tmp_path)
        with pytest.raises(RecordError, match=words):
            read_layers(forged)
        assert [remark.is_fault for _, remark in record_files(forged)[1]] == [True]
    content = json.loads(path.read_text())
    content["shells"][0]["keep"] = 3
    forged.write_text(json.dumps(content))
    with pytest.raises(RecordError, match="it was edited"):
        LAYERS.read(forged)
    content["tokens"] = content["tokens"][:-1]
    forged.write_text(json.dumps(content))
    with pytest.raises(RecordError, match="not every sum is of 12 documents"):
        LAYERS.read(forged)


def test_layers_are_shown_in_every_format(measured: Layers, tmp_path: Path) -> None:
    frame = layers_frame(measured)
    assert list(frame["keep"]) == [0, 0, 4, 4]
    assert {*COLUMNS, *STATEMENTS} <= set(frame.columns)
    assert np.isnan(frame["power_raw"][0])
    assert frame["kept"][0] == ""
    table = render_layers(measured)
    assert max(map(len, table.splitlines())) <= 80
    assert "…" not in table
    for title in PARTS[1:]:
        assert title in table
    assert "1,536 scored tokens of 12 documents" in table
    assert render_layers(measured, "latex").count(r"\begin{tabular}") == len(PARTS) + 1
    assert render_layers(measured, "csv").count("\n") == 5
    assert len(json.loads(render_layers(measured, "json"))["shells"]) == 4
    assert set(measured.shells[0].rungs) == set(rungs_of(2))
    save(layers_figure(measured), tmp_path / "layers.png")
    assert (tmp_path / "layers.png").stat().st_size > 10_000


# ------------------------------------------------------------------------------------------------ bad input


def test_what_is_no_chain_is_refused(loaded: list[LoadedTask], entries: list[Entry], tmp_path: Path) -> None:
    settings = layers_plan(loaded, "quick")

    def planned(places: list[int], keeps: list[int] | None = None) -> Any:
        return plan_layers([loaded[i] for i in places], [entries[i] for i in places], settings, keeps=keeps)

    other = open_task("controls/linear-gaussian", device="cpu")
    for act, words in (
        (lambda: planned([0]), "one site has no layer below it"),
        (lambda: planned([0, 0]), "are both at first"),
        (lambda: planned([1, 0]), "in a pass the sites come as first, second"),
        (lambda: planned([0, 1], [5]), "--keep 5: at most 4 sources are on at one token and site"),
        (lambda: plan_layers(loaded, entries[:1], settings), "2 tasks and 1 submissions"),
        (lambda: plan_layers([loaded[0], other], entries, settings), "are of different models"),
        (lambda: layers_plan(loaded, "quick", calibration=500), "has 128 calibration windows"),
    ):
        with pytest.raises(TaskError, match=words):
            act()
    elsewhere = [open_task(load_task(SITES[1]).model_copy(update={"seed": 2}), device="cpu")]
    with pytest.raises(TaskError, match="are of different"):
        plan_layers([loaded[0], *elsewhere], entries, settings)
    silent = object_submission(Identity(), "silent")
    assert not list(tmp_path.iterdir())
    prompts = open_task("tiny/induction-circuit", device="cpu")
    with pytest.raises(TaskError, match="no activations at a site"):
        plan_layers([loaded[0], prompts], [entries[0], silent], settings)


@pytest.mark.slow
def test_the_command_refuses_before_anything_is_loaded(remainder: Command, tmp_path: Path) -> None:
    for arguments, words in (
        ((*SITES, "--with", "subspace"), "2 task(s) and 1 submission(s)"),
        ((SITES[0], "--with", "subspace"), "one site has no layer below it"),
        ((*SITES, "--with", "subspace", "--with", "subspace", "--keep", "0,x"), "no number of sources"),
        ((*SITES, "--with", "subspace", "--with", "wiki-topk"), "wiki-topk"),
    ):
        outcome = remainder("layers", *arguments, "--out", str(tmp_path / "results"))
        assert outcome.code != 0
        assert words in outcome.err
    assert not (tmp_path / "results").exists()
