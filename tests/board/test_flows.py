"""Flows on the board: a section on the pages of their submissions' records, and nothing else moves."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
import pytest
from terminal import Command
from tests.board.test_browser import Tab
from tiny import Shrink, make_loaded

import remainder as library
from remainder.api.flows import numbers_of
from remainder.board import build as board_build
from remainder.board.flows import BoardFlow, flow_section
from remainder.board.merge import folders_of_tasks, read_entries
from remainder.board.pages import record_html
from remainder.board.rows import rows_of
from remainder.board.snapshot import make_snapshot
from remainder.board.verify import record_files, verify_paths
from remainder.errors import RecordError, TaskError
from remainder.loading.site import SiteTask
from remainder.record.flow_file import FLOWS, read_flow
from remainder.report.flow import render_flow
from remainder.report.flow_result import FlowResult

RUNGS = ("raw", "full")


@pytest.fixture(scope="module")
def loaded() -> SiteTask:
    return make_loaded()


@pytest.fixture(scope="module")
def flow(loaded: SiteTask, tmp_path_factory: pytest.TempPathFactory) -> FlowResult:
    """A flow in a folder that holds the whole submission's record too."""
    out = tmp_path_factory.mktemp("flows") / "results"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("remainder.runs.flow.RUNGS", RUNGS)
        found = library.flow(loaded, Shrink(), name="shrink", order="index", keep=[0, 8, 16], out=out)
    library.evaluate_all(loaded, {"shrink": Shrink()}, out=out, rungs=RUNGS, documents=None)
    return found


@pytest.fixture(scope="module")
def results(flow: FlowResult) -> Path:
    return flow.path.parents[3]


@pytest.fixture
def place(results: Path, tmp_path: Path) -> Path:
    """A copy of the folder, to be changed."""
    return Path(shutil.copytree(results, tmp_path / "results"))


def files_of(site: Path) -> dict[str, bytes]:
    return {
        path.relative_to(site).as_posix(): path.read_bytes() for path in site.rglob("*") if path.is_file()
    }


def without_flows(place: Path) -> Path:
    for path in place.rglob("*.flow"):
        path.unlink()
    for folder in place.rglob("shrink.index-*"):
        shutil.rmtree(folder)
    return place


def test_a_flow_stands_on_its_submission_s_page_and_moves_nothing_else(
    flow: FlowResult, results: Path, place: Path, tmp_path: Path
) -> None:
    built = board_build.build(results, tmp_path / "with")
    bare = board_build.build(without_flows(place), tmp_path / "without")
    assert built.faults == bare.faults == ()
    assert (built.records, built.readme) == (bare.records, bare.readme) == (1, bare.readme)
    with_, without = files_of(tmp_path / "with"), files_of(tmp_path / "without")
    (page,) = (name for name in without if re.fullmatch(r"records/\w{64}\.html", name))
    assert {name for name in without if without[name] != with_[name]} == {page}
    ids = [shell.record for shell in flow.flow.shells]
    own = FLOWS.id(flow.flow)
    added = {f"records/{own}.flow", f"records/{own}.svg"}
    added |= {f"records/{one}{ending}" for one in ids for ending in (".json", ".csv.gz")}
    assert with_.keys() - without.keys() == added
    text = with_[page].decode()
    for line in ("k_shape", "k_raw", "not measured", f'<img data-still src="{own}.svg"', f"{ids[1]}.json"):
        assert line in text
    cells = re.findall(r'<tr><th scope="row" class="num">(\d+)</th>', text)
    assert cells[:3] == ["0", "8", "16"]


def test_shells_take_no_row_place_group_or_order(results: Path, flow: FlowResult) -> None:
    (paths,) = folders_of_tasks(results).values()
    assert len(paths) == 4
    entries, faults = read_entries(results, paths)
    assert ([entry.record.submission.name for entry in entries], faults) == (["shrink"], [])
    snapshot = make_snapshot("2026.12", results, record_files(results)[0])
    assert len(snapshot.records) == 4  # a snapshot holds the files of all of them
    rows = json.loads(rows_of(snapshot, results))["rows"]
    assert [row["submission"] for row in rows] == ["shrink"]


def edit_flow(place: Path) -> None:
    (path,) = place.rglob("*.flow")
    path.write_bytes(path.read_bytes().replace(b'"ties": 0', b'"ties": 1'))


def drop_flow(place: Path) -> None:
    for path in place.rglob("*.flow"):
        path.unlink()


def drop_whole(place: Path) -> None:
    shutil.rmtree(next(place.rglob("shrink")))


def drop_shell(place: Path) -> None:
    shutil.rmtree(next(place.rglob("shrink.index-8")))


def rename_flow(place: Path) -> None:
    (path,) = place.rglob("*.flow")
    path.rename(path.with_name("other.flow"))


@pytest.mark.parametrize(
    ("harm", "says", "number"),
    [
        (edit_flow, "it was edited", 1),
        (drop_flow, "is a shell, and neither a flow nor levels beside it name it", 3),
        (drop_whole, "no record of its whole submission is here", 1),
        (drop_shell, "the shell that keeps 8 is missing", 1),
        (rename_flow, "lies elsewhere than it says", 1),
    ],
)
def test_what_cannot_be_shown_is_told(
    harm: Callable[[Path], None], says: str, number: int, place: Path
) -> None:
    harm(place)
    built = board_build.build(place, None)
    assert len(built.faults) == number
    assert all(says in fault.what for fault in built.faults)


def test_names_and_orders_are_escaped(flow: FlowResult, results: Path) -> None:
    evil = '<img src=x onerror="alert(1)">'
    changed = flow.flow.model_copy(
        update={"order": evil, "submission": flow.flow.submission.model_copy(update={"name": evil})}
    )
    (entry,) = read_entries(results, folders_of_tasks(results)["tiny/site"])[0]
    one = BoardFlow(read_flow(flow.path)._replace(flow=changed), flow.path)
    page = record_html(entry, [], [entry], flows=[flow_section(one)])
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page
    shown = replace(flow, flow=changed)._repr_html_()
    assert "<img" not in shown
    assert "&lt;img" in shown


def test_verify_tells_shells_apart(place: Path, remainder: Command) -> None:
    assert remainder("verify", str(place)).code == 0
    drop_flow(place)
    verdicts = verify_paths([place])
    notes = [note for verdict in verdicts for note in verdict.notes]
    assert sum("neither a flow nor levels" in note for note in notes) == 3
    assert all(verdict.passed for verdict in verdicts)


def test_flows_are_exported_a_row_for_each_shell(
    results: Path, place: Path, tmp_path: Path, remainder: Command
) -> None:
    out = tmp_path / "flows.csv"
    outcome = remainder("export", str(results), "--format", "flows", "--out", str(out))
    assert outcome.code == 0, outcome.err
    frame = pd.read_csv(out)
    assert list(frame["keep"]) == [0, 8, 16]
    assert set(frame["order"]) == {"index"}
    assert frame["gap_raw"].notna().all()
    outcome = remainder(
        "export", str(without_flows(place)), "--format", "flows", "--out", str(tmp_path / "a.csv")
    )
    assert outcome.code != 0
    assert "no flow lies beside these records" in outcome.err
    assert not (tmp_path / "a.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize("width", [375, 1280])
def test_a_flow_fits_a_phone_and_its_figure_can_be_explored(
    width: int, results: Path, tmp_path: Path, browser: Any
) -> None:
    board_build.build(results, tmp_path / "site")
    tab = Tab(browser, tmp_path / "site", viewport={"width": width, "height": 900})
    (name,) = (path.name for path in (tmp_path / "site" / "records").glob("*.html"))
    page = tab.open(f"records/{name}")
    still, plot = page.locator(".flow [data-still]"), page.locator(".flow [data-plot]")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.locator("[data-zoom]").click()
    page.wait_for_selector(".flow .plotly .point")
    assert (still.is_visible(), plot.is_visible()) == (False, True)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.locator("[data-zoom]").click()
    assert (still.is_visible(), plot.is_visible()) == (True, False)
    assert tab.complaints == []
    tab.context.close()


# ------------------------------------------------------------------------------------------- remainder.flow


def test_the_call_gives_what_the_command_shows(flow: FlowResult, tmp_path: Path) -> None:
    assert str(flow) == render_flow(flow.flow, flow.records)
    assert list(flow.table()["keep"]) == [0, 8, 16]
    assert set(flow.scales) == set(flow.flow.scales)
    assert repr(flow).startswith("<FlowResult: shrink on tiny/site")
    assert max(map(len, repr(flow).splitlines())) <= 120
    assert flow.save(tmp_path / "flow.svg").stat().st_size > 5_000
    assert read_flow(flow.path).flow == flow.flow
    jsonschema.validate(json.loads(flow.path.read_text(encoding="utf-8")), FLOWS.schema())
    html = flow._repr_html_()
    for line in ("k_raw", "<td", "shrink on tiny/site"):
        assert line in html


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"keep": [0, True]}, "keep holds True"),
        ({"order": "fame"}, "no order of keeping"),
        ({"ratio": 1.0}, "not above 1"),
        ({"keep": [0, 1], "ratio": 2.0}, "--keep names the shells"),
        ({"order": "index", "keep": [0, 17]}, "has 16 sources"),
        ({"order": "index", "keep": [4]}, "one shell shows no scale"),
    ],
)
def test_the_call_says_what_is_wrong_and_writes_nothing(
    given: dict[str, object], says: str, loaded: SiteTask, tmp_path: Path
) -> None:
    with pytest.raises(TaskError, match=says):
        library.flow(loaded, Shrink(), out=tmp_path / "out", **given)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("keep", ["0,1", 3, [0, 1.5], [0, "1"]])
def test_what_is_no_list_of_numbers_is_told(keep: object) -> None:
    with pytest.raises(TaskError, match=r"keep (is|holds) "):
        numbers_of(keep)


@pytest.mark.slow
def test_a_flow_that_is_interrupted_goes_on_and_writes_its_file_last(
    loaded: SiteTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("remainder.runs.flow.RUNGS", RUNGS)
    settings = {"name": "shrink", "order": "index", "keep": [0, 16], "out": tmp_path}

    def stop(doing: str, done: int, total: int | None) -> None:
        if re.match(r"1 of \d done", doing):
            raise KeyboardInterrupt

    monkeypatch.setenv("REMAINDER_GROUP_GB", "0.000001")  # one shell after another
    with pytest.raises(KeyboardInterrupt):
        library.flow(loaded, Shrink(), progress=stop, **settings)  # type: ignore[arg-type]
    assert not list(tmp_path.rglob("*.flow"))
    (kept,) = tmp_path.rglob("*.json")
    before = kept.stat().st_mtime_ns
    found = library.flow(loaded, Shrink(), **settings)  # type: ignore[arg-type]
    assert kept.stat().st_mtime_ns == before
    assert kept.stem in {shell.record for shell in found.flow.shells}
    # More shells of the same flow take the place of the file; another order lies beside it.
    more = library.flow(loaded, Shrink(), **{**settings, "keep": [0, 8, 16]})  # type: ignore[arg-type]
    assert [path for path in tmp_path.rglob("*.flow")] == [more.path] == [found.path]
    assert len(read_flow(more.path).flow.shells) == 3
    # Shells that were chosen among other sources are not taken for those of now.
    monkeypatch.setattr("remainder.measure.keeping.Sources.full", 99)
    with pytest.raises(RecordError, match="99 sources, of which 0 tie: the shell that keeps 0 states others"):
        library.flow(loaded, Shrink(), **settings)  # type: ignore[arg-type]
    assert len(read_flow(more.path).flow.shells) == 3
