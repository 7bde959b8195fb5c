"""Many records as one frame or one table, and as files: nothing is dropped, mixed, or half written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_records import fake_hash, synthetic_record
from synthetic_values import synthetic_values
from terminal import Command

import remainder as package
from remainder.base.paths import project_root
from remainder.errors import RecordError
from remainder.record.schema import Record, TaskInfo
from remainder.record.store import read_record, values_path, write_record
from remainder.report import export as exporting
from remainder.report.export import export
from remainder.report.quantities import QUANTITIES, number_of
from remainder.report.results import load_results, read_results, record_files
from remainder.report.saebench import CORE, saebench_content, saebench_result

VALUES = synthetic_values()
OTHER = TaskInfo(id="family/other", version="1-0", hash=fake_hash("other"))
WITH_COMPAT = project_root() / (
    "leaderboard/archive/1/results/smollm2-135m/resid-15/1/topk-sae-32/"
    "3a7cfafd900336396afd495a52d11c3324fc0294187297e9427f7cbfef8b2a50.json"
)
"""The committed record that has the metrics of other evaluators."""


def put(folder: Path, name: str, **changes: object) -> tuple[Path, Record]:
    record = synthetic_record(VALUES, name=name, **changes)
    path = folder / record.task.id / "1" / name / f"{record.record_id}.json"
    write_record(record, VALUES, path)
    return path, record


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of results with three records of two tasks, and what runs keep beside them."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results"
    put(folder, "many", bits=300.0)
    put(folder, "few", bits=20.0)
    put(folder, "few", bits=20.0, task=OTHER)
    (folder / ".runs/batches").mkdir(parents=True)
    (folder / ".runs/batches/x.batch").write_text("{}")
    return folder


def test_a_frame_has_a_row_a_record_with_every_quantity_and_its_interval(results: Path) -> None:
    frame = load_results(results)
    assert frame[["task", "submission"]].to_numpy().tolist() == [
        ["family/other", "few"],
        ["family/task", "few"],
        ["family/task", "many"],
    ]
    for _, row in frame.iterrows():
        record = read_record(row["path"]).record
        assert row["record_id"] == record.record_id
        assert row["task_hash"] == record.task.hash
        assert row["submission_hash"] == record.submission.hash
        assert row["result_id"] == record.result_id
        for key in QUANTITIES:
            number = number_of(record, key)
            parts = [np.nan if part is None else part for part in (number.value, number.low, number.high)]
            assert row[[key, f"{key}_low", f"{key}_high"]].astype(float).to_numpy() == pytest.approx(
                parts, nan_ok=True
            )


def test_files_and_folders_are_named_alike_and_each_record_once(results: Path) -> None:
    files = sorted(results.rglob("*.json"))
    assert load_results(files[0])["path"].tolist() == [str(files[0])]
    assert len(load_results([str(results), *files, results / "family/task"])) == 3
    assert record_files(["results", results]) == [
        Path("results", file.relative_to(results)) for file in files
    ]


def test_rungs_get_columns_and_unknown_ones_are_refused(results: Path) -> None:
    frame = load_results(results, rungs="all")
    record = read_record(frame["path"][0]).record
    assert frame["gap_mean"][0] == record.metrics.rungs["mean"].quenched.gap.value
    assert "kl_permuted_high" in frame
    assert "gap_mean" not in load_results(results)
    assert "gap_mean" in load_results(results, rungs=["mean"])
    with pytest.raises(RecordError, match="no rung 'permutd'"):
        load_results(results, rungs="permutd")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema_version": 99}', None])
def test_what_is_no_sound_record_is_named_and_never_dropped_silently(
    results: Path, content: str | None
) -> None:
    path = results / "family/task/1/few/bad.json"
    if content is None:  # edited
        content = next(path.parent.glob("*.json")).read_text().replace('"tier": "quick"', '"tier": "slow"')
    path.write_text(content)
    with pytest.raises(RecordError, match=r"1 of 4 files .*bad\.json"):
        load_results(results)
    with pytest.warns(UserWarning, match=r"bad\.json"):
        frame = load_results(results, skip_damaged=True)
    assert len(frame) == 3
    assert "bad.json" in frame.attrs["skipped"][0]
    with pytest.raises(RecordError, match=r"bad\.json"):  # nothing is left
        load_results(path, skip_damaged=True)


def test_what_is_not_there_is_named(results: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for paths, message in (
        ("absent", "absent: no such record"),
        ([results, "absent.json"], "absent.json: no such record"),
        ("empty", "empty: holds no record"),
        ([], "no record is named"),
    ):
        with pytest.raises(RecordError, match=message):
            load_results(paths)


def test_a_folder_that_nobody_may_write_to_is_read(results: Path) -> None:
    """There is no index: whatever changes is seen, and nothing is written."""
    before = sorted(results.rglob("*"))
    assert len(load_results(results)) == 3
    assert sorted(results.rglob("*")) == before
    put(results, "third")
    assert len(load_results(results)) == 4


def test_committed_records_are_in_the_frame() -> None:
    """Those of the smaller suites, circuits among them."""
    board = [project_root() / "leaderboard/results" / suite for suite in ("tiny", "tracr")]
    frame = package.load_results(board)
    assert len(frame) == sum(len(list(suite.rglob("*.json"))) for suite in board) > 90
    assert frame["record_id"].is_unique
    assert (frame["record_id"] == [Path(path).stem for path in frame["path"]]).all()
    assert frame["kl_raw"].notna().all()


# show


def test_several_records_are_one_table_a_task(results: Path, remainder: Command) -> None:
    shown = remainder("show", "results").out
    assert shown.count("scored tokens of") == 2
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.rindex("few") < shown.rindex("many")
    paths = sorted(results.rglob("*.json"))
    for format in ("table", "markdown", "csv"):
        several = remainder("show", *paths, "--format", format)
        assert several.code == 0, several.err
        assert several.out == remainder("show", "results", "--format", format).out
    assert len(json.loads(remainder("show", "results", "--format", "json").out)) == 3


def test_columns_can_be_chosen(results: Path, remainder: Command) -> None:
    shown = remainder("show", "results/family/task", "--columns", "l0,gap_raw")
    assert "Δ raw" in shown.out
    assert "KL" not in shown.out.split("─")[0]
    assert "no column 'gap_rae'" in remainder("show", "results", "--columns", "gap_rae").err


def test_records_of_one_name_are_told_apart_in_a_table(results: Path, remainder: Command) -> None:
    other = read_record(next(results.glob("family/task/1/few/*.json"))).record
    later = other.provenance.model_copy(update={"timestamp": "2026-02-01T00:00:00+00:00"})
    again = put(results, "few", bits=20.0, provenance=later)[1]
    shown = remainder("show", "results/family/task").out
    for record in (other, again):
        assert f"few [{record.record_id[:6]}]" in shown
    assert "many [" not in shown


def test_damaged_records_are_named_by_show(results: Path, remainder: Command) -> None:
    path, _ = put(results, "third")
    values_path(path).write_bytes(b"no values")
    refused = remainder("show", "results")
    assert refused.code == 7
    assert refused.out == ""
    assert values_path(path).name in refused.err
    skipped = remainder("show", "results", "--skip-damaged", "--format", "csv")
    assert skipped.code == 0
    assert len(skipped.out.splitlines()) == 4
    assert values_path(path).name in skipped.err


# export


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_a_table_is_exported_as_load_results_gives_it(
    results: Path, tmp_path: Path, remainder: Command, format: str
) -> None:
    done = remainder("export", "--format", format)
    assert done.code == 0, done.err
    assert done.out == f"3 records in results.{format}\n"
    path = tmp_path / f"results.{format}"
    found = pd.read_csv(path) if format == "csv" else pd.read_parquet(path)
    expected = load_results("results", rungs="all")
    assert list(found.columns) == list(expected.columns)
    for name in expected.select_dtypes("number"):
        np.testing.assert_array_equal(found[name].astype(float), expected[name].astype(float))
    assert found["path"].tolist() == expected["path"].tolist()
    assert not list(tmp_path.glob(".*.tmp"))


def test_an_existing_file_is_replaced_only_on_demand(
    results: Path, tmp_path: Path, remainder: Command
) -> None:
    out = tmp_path / "t.csv"
    out.write_text("mine")
    refused = remainder("export", "results", "--out", out)
    assert refused.code == 7
    assert "exists already" in refused.err
    assert out.read_text() == "mine"
    assert remainder("export", "results", "--out", out, "--overwrite").code == 0
    assert len(pd.read_csv(out)) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "t.txt"], "does not end in .csv"),
        (["--format", "parquet", "--out", "t.csv"], "does not end in .parquet"),
        (["--format", "xlsx"], "use one of csv, parquet, flows, saebench"),
        (["--out", "no/t.csv"], "no folder"),
        (["absent"], "there is no record 'absent'"),
        (["results", "--format", "saebench"], "3 of 3 records cannot be exported"),
    ],
)
def test_what_cannot_be_exported_is_said_and_nothing_is_written(
    results: Path, tmp_path: Path, remainder: Command, arguments: list[str], message: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    done = remainder("export", *arguments)
    assert done.code == 7, done
    assert message in done.err
    assert "Traceback" not in done.err
    assert sorted(tmp_path.rglob("*")) == before


def test_half_an_export_is_removed(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = read_results([WITH_COMPAT]).stored
    renamed = stored[0].record.model_copy(update={"record_id": fake_hash("another")})
    written = []

    def full(path: Path, content: bytes) -> None:
        if written:
            raise RecordError(f"{path}: no space is left")
        written.append(path)
        path.parent.mkdir()
        path.write_bytes(content)

    monkeypatch.setattr(exporting, "write_atomically", full)
    with pytest.raises(RecordError, match="no space"):
        export([*stored, stored[0]._replace(record=renamed)], "saebench", tmp_path / "out")
    assert written
    assert list((tmp_path / "out").iterdir()) == []


def test_a_result_of_saebench_is_read_back_with_equal_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remainder: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    done = remainder("export", WITH_COMPAT, "--format", "saebench")
    assert done.code == 0, done.err
    (path,) = (tmp_path / "saebench").iterdir()
    assert path.name.endswith("_eval_results.json")
    compat = read_record(WITH_COMPAT).record.compat
    assert compat is not None
    assert compat.saebench is not None
    ours = compat.saebench.model_dump(exclude={"tokens"})
    theirs = saebench_result(path).set_index("metric")
    assert list(theirs.index) == [name for names in CORE.values() for name in names]
    for name, number in ours.items():
        expected = np.nan if number["value"] is None else number["value"]
        np.testing.assert_equal(theirs.value[name], expected)
    assert theirs.value["total_tokens_eval_reconstruction"] == compat.saebench.tokens
    assert np.isnan(theirs.value["mse"])
    assert theirs.value.notna().sum() == len(ours) - 1 + 2


def test_a_result_of_saebench_has_every_field_of_its_schema() -> None:
    """Those of `CoreEvalOutput` of SAEBench 0.6.0; what is not measured is −1, as there."""
    content = saebench_content(read_record(WITH_COMPAT).record)
    assert set(content) == {
        *("eval_type_id", "eval_config", "eval_id", "datetime_epoch_millis", "eval_result_metrics"),
        *("eval_result_details", "sae_bench_commit_hash", "sae_lens_id", "sae_lens_release_id"),
        *("sae_lens_version", "sae_cfg_dict", "eval_result_unstructured"),
    }
    for category, names in CORE.items():
        numbers = content["eval_result_metrics"][category]
        assert list(numbers) == list(names)
        assert all(isinstance(number, (int, float)) for number in numbers.values())
    assert content["eval_result_metrics"]["reconstruction_quality"]["mse"] == -1
    assert "batch size" in content["eval_result_unstructured"]["reasons"]["mse"]


def test_without_its_metrics_a_message_says_which_run_makes_them() -> None:
    record = synthetic_record(VALUES, tier="quick (8 documents)")
    with pytest.raises(RecordError, match=r"--with pca-32 --tier quick --rungs raw .* --compat"):
        saebench_content(record)
    circuit = next((project_root() / "leaderboard/results/tracr").rglob("eap*/*.json"))
    with pytest.raises(RecordError, match="is a circuit"):
        saebench_content(read_record(circuit).record)


def test_minus_one_is_not_exported_as_a_number() -> None:
    record = read_record(WITH_COMPAT).record
    assert record.compat is not None
    assert record.compat.saebench is not None
    cosine = record.compat.saebench.cossim.model_copy(update={"value": -1.0})
    peer = record.compat.saebench.model_copy(update={"cossim": cosine})
    changed = record.model_copy(update={"compat": record.compat.model_copy(update={"saebench": peer})})
    with pytest.raises(RecordError, match="cossim is −1"):
        saebench_content(changed)
