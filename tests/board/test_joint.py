"""Levels and modes: the call from Python, and sections on the pages of their submissions' records."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from tiny import Shrink, make_loaded

import remainder as library
from remainder.api.arguments import entry_of
from remainder.board import build as board_build
from remainder.board.verify import verify_paths
from remainder.errors import RecordError
from remainder.loading.site import SiteTask
from remainder.measure.modes import measure_modes
from remainder.measure.plan import plan
from remainder.record.levels_file import LEVELS, read_levels
from remainder.record.modes_file import MODES, read_modes, write_modes
from remainder.report.levels import render_levels
from remainder.report.levels_result import LevelsResult
from remainder.submission.objects import ObjectSubmission

pytestmark = pytest.mark.slow

RUNGS = ("raw", "full")


@pytest.fixture(scope="module")
def loaded() -> SiteTask:
    return make_loaded()


@pytest.fixture(scope="module")
def levels(loaded: SiteTask, tmp_path_factory: pytest.TempPathFactory) -> LevelsResult:
    """Levels and modes in a folder that holds the whole submission's record too."""
    out = tmp_path_factory.mktemp("levels") / "results"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("remainder.runs.flow.RUNGS", RUNGS)
        patch.setattr("remainder.runs.levels.RUNGS", ())
        found = library.levels(loaded, Shrink(), names=["shrink"], order="index", keep=[0, 8, 16], out=out)
    library.evaluate_all(loaded, {"shrink": Shrink()}, out=out, rungs=RUNGS, documents=None)
    settings = plan(loaded.task, "quick", rungs=("mean",))
    entry = entry_of(Shrink(), loaded.task, "shrink")
    assert isinstance(entry, ObjectSubmission)
    write_modes(measure_modes(loaded, entry, settings, order="index", ratios=(2.0,), shifts=(0.0, 0.5)), out)
    return found


def test_the_call_gives_what_the_command_shows(levels: LevelsResult) -> None:
    assert str(levels) == render_levels(levels.levels, levels.records)
    assert read_levels(levels.path) == (levels.levels, levels.records)
    assert levels.levels.shells is not None
    assert levels.levels.shells.keeps == (0, 8, 16)
    assert list(levels.table()["finer"]) == ["shrink.index-8", "shrink.index-16", ""]
    assert repr(levels).startswith("<LevelsResult: shrink.index-0 to shrink.index-16 on ")
    assert "Levels over each other" in levels._repr_html_()
    with pytest.raises(RecordError, match="2 names, and 1 submissions"):
        library.levels("tiny/digits", Shrink(), names=["a", "b"])


def test_they_stand_on_their_submission_s_page(levels: LevelsResult, tmp_path: Path) -> None:
    results = levels.path.parents[3]
    assert all(verdict.passed for verdict in verify_paths([results], jobs=1))
    built = board_build.build(results, tmp_path / "site")
    assert (built.records, built.faults) == (1, ())
    folder = tmp_path / "site" / "records"
    (page,) = (path for path in folder.glob("*.html") if re.fullmatch(r"\w{64}", path.stem))
    text = page.read_text(encoding="utf-8")
    (modes,) = results.rglob("*.modes")
    for own in (LEVELS.id(levels.levels), MODES.id(read_modes(modes).found)):
        assert f'<img src="{own}.svg"' in text
        assert (folder / f"{own}.svg").stat().st_size > 10_000
    for level in levels.levels.levels:
        assert (folder / f"{level.record}.csv.gz").is_file()
    assert "gᵀΣg" in text
    assert "What a hierarchy would say" in text


def test_what_cannot_be_shown_is_told(levels: LevelsResult, tmp_path: Path) -> None:
    place = Path(shutil.copytree(levels.path.parents[3], tmp_path / "results"))
    (modes,) = place.rglob("*.modes")
    modes.write_bytes(modes.read_bytes().replace(b'"keep": 0', b'"keep": 1'))
    (kept,) = place.rglob("*.levels")
    kept.rename(kept.with_name("other.levels"))
    whats = [fault.what for fault in board_build.build(place, None).faults]
    assert any("lies elsewhere than it says" in what for what in whats)
    assert any("it was edited" in what for what in whats)
    kept.with_name("other.levels").rename(kept)
    shutil.rmtree(next(place.rglob("shrink")))
    whats = [fault.what for fault in board_build.build(place, None).faults]
    assert any("no record of its submission is here" in what for what in whats)
