"""Ad-hoc tasks: what is found of a model and a text, and that they are tasks like any other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
from format_files import make_sae
from tiny import BOS, VOCABULARY, WIDTH
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

import remainder
from remainder.base.paths import project_root
from remainder.board.origin import check_task
from remainder.errors import AssetError, InterpretationError, TaskError
from remainder.loading.adapt import given_model
from remainder.loading.adhoc import adhoc_task
from remainder.loading.adhoc_text import CONTEXTS, Asked, Prepared, prepare, tiers_of
from remainder.loading.sinks import sinks_in
from remainder.loading.texts import read_text
from remainder.publish.remeasure import rerun
from remainder.publish.requirements import public_task
from remainder.task.adhoc import save_task
from remainder.task.spec import load_task
from remainder.task.text import text_of

HOOK = "blocks.1.hook_resid_pre"


def words(lengths: list[int], seed: int = 0) -> list[str]:
    """Documents of as many random words, each a token."""
    generator = np.random.default_rng(seed)
    return [" ".join(f"w{word}" for word in generator.integers(3, VOCABULARY, size)) for size in lengths]


DOCUMENTS = words([30 + number for number in range(48)])


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))


def sae(seed: int = 0, **metadata: Any) -> Any:
    return make_sae("StandardSAE", seed, {"hook_name": HOOK, **metadata}, d_in=WIDTH, d_sae=24)


def prepared(source: Any, **asked: Any) -> Prepared:
    return prepare(read_text(source), given_model(tiny.model_folder()), Asked(**asked))


def test_windows_splits_and_tiers_are_what_the_text_holds() -> None:
    text = prepared(words([70] * 100))
    spec, splits = text.corpus.spec, text.corpus.splits
    assert (spec.window, spec.bos, spec.special_tokens) == (64, BOS, (0, BOS, 2))  # the model takes 64 tokens
    assert (splits.evaluation, splits.calibration) == (40, 40)
    assert text.words.endswith("40 for evaluation, 40 for calibration, 20 for fit.")
    assert spec.tokens_sha256 == text.corpus.hash
    quick, standard = tiers_of(text.corpus).values()
    assert (quick.evaluation_windows, quick.calibration_windows, quick.fit_windows) == (40, 40, 20)
    assert (standard.evaluation_windows, standard.pairs) == (40, 2)  # a document is one window
    many = prepared(words([3 * 63] * 700)).corpus
    assert (many.splits.evaluation, many.splits.calibration) == (64, 256)
    quick, standard = tiers_of(many).values()
    assert (quick.evaluation_windows, standard.evaluation_windows) == (64, 3 * 64)
    assert (quick.calibration_windows, quick.fit_windows) == (3 * 256, 200)


def test_windows_are_as_long_as_forty_documents_allow_and_else_as_ten_do() -> None:
    assert prepared(words([50] * 30 + [25] * 10)).corpus.spec.window == 24
    assert prepared(words([50] * 10 + [3] * 20)).corpus.spec.window == 48
    assert prepared(words([50] * 12), context=30).corpus.spec.window == 30
    assert max(CONTEXTS) == 128


def test_like_takes_another_tasks_settings(tmp_path: Path) -> None:
    like = load_task(tiny.write_task(tmp_path / "tasks"))
    text = prepared(words([30] * 20), like=like)
    assert text.corpus.splits == like.splits
    assert (text.corpus.spec.window, text.corpus.spec.bos) == (like.corpus.window, like.corpus.bos)
    with pytest.raises(TaskError, match=r"18 of 24 tokens; the splits of tiny/site need more than 18"):
        prepared(words([30] * 18), like=like)


@pytest.mark.parametrize(
    ("source", "asked", "message"),
    [
        (words([500]), {}, "1 document of a list of strings: a single one"),
        (words([70] * 9), {}, r"too few of at least one window \(9 of 64 tokens, .*9 of 16 tokens"),
        (words([5] * 90), {}, "0 of 16 tokens"),
        (words([70] * 9), {"context": 50}, r"too few of at least one window \(9 of 50 tokens"),
        (DOCUMENTS, {"context": 65}, "a window of 65 tokens; .* takes 3 to 64"),
        (DOCUMENTS, {"context": 2}, "a window of 2 tokens"),
        (DOCUMENTS, {"bos": VOCABULARY}, f"the vocabulary of .* has {VOCABULARY} tokens"),
        ([[5] * 70, [VOCABULARY] * 70], {}, f"there is a token id {VOCABULARY}; the vocabulary"),
    ],
)
def test_texts_that_are_not_enough_are_refused(source: Any, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message) as raised:
        prepared(source, **asked)
    assert raised.value.fix


def test_a_tokenizer_without_a_first_token_is_named_and_another_can_be_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = given_model(tiny.model_folder())
    given.tokenizer.bos_token = None
    with pytest.raises(TaskError, match="has no beginning-of-sequence token") as raised:
        prepare(read_text(DOCUMENTS), given, Asked())
    assert "--bos ID), such as 2" in (raised.value.fix or "")
    assert prepare(read_text(DOCUMENTS), given, Asked(bos=2)).corpus.spec.bos == 2


def test_token_ids_are_taken_as_they_are_without_their_own_first_token() -> None:
    ids = [[BOS, *range(3, 60)], *([3 + number, *range(3, 60)] for number in range(12))]
    corpus = prepared(ids).corpus
    assert sorted(np.diff(corpus.bounds).tolist()) == [57, *[58] * 12]


def test_sinks_lie_beyond_a_gap_in_the_norms() -> None:
    generator = np.random.default_rng(0)
    usual = generator.uniform(80, 120, 1000)
    sinks = sinks_in(np.concatenate([usual, [2100, 3000]]))
    assert sinks.norm == float(f"{np.sqrt(usual.max() * 2100):.3g}")
    assert "0.20% of calibration positions, with norms from 2,100" in sinks.words
    for norms in (
        usual,
        np.concatenate([usual, [250, 300]]),  # a gap, but not four times the median
        np.geomspace(80, 4000, 1000),  # high norms without a gap
        np.concatenate([usual, np.full(100, 2100.0)]),  # too many
        np.full(5, 3.0),
    ):
        none = sinks_in(norms)
        assert none.norm == float(f"{8 * norms.max():.3g}")
        assert none.words.startswith("No attention sinks")


def test_a_task_is_named_by_its_content_and_opens_again_with_the_same_numbers(tmp_path: Path) -> None:
    model = shutil.copytree(tiny.model_folder(), tmp_path / "my model")
    loaded = adhoc_task(model=model, hook=HOOK, text=DOCUMENTS, save_task=tmp_path / "saved", device="cpu")
    task = loaded.task
    assert task.id.startswith("adhoc/my-model-blocks.1.hook_resid_pre-")
    assert task.id.endswith(task.content_id)
    assert (task.site.hook_in, task.site.hook_out, task.site.width) == (HOOK, HOOK, WIDTH)
    assert not task.gives_places
    assert "No attention sinks" in task.description
    first = remainder.evaluate(loaded, sae(), rungs="raw")
    # Neither the order of documents nor the place of the model changes anything.
    other = shutil.copytree(model, tmp_path / "elsewhere" / "my model")
    assert adhoc_task(model=other, hook=HOOK, text=DOCUMENTS[::-1], device="cpu").task.id == task.id
    changed = adhoc_task(model=other, hook=HOOK, text=DOCUMENTS[1:], device="cpu").task
    assert changed.id != task.id
    # As a folder, and by its id from the cache.
    for name in (tmp_path / "saved", task.id):
        again = load_task(name)
        assert again.id == task.id
        assert again.hash == task.hash
        assert again.description == task.description
    values = remainder.evaluate(tmp_path / "saved", sae(), rungs="raw", device="cpu").values
    pd.testing.assert_frame_equal(values, first.values, check_exact=False, rtol=0, atol=1e-6)
    # Of another content under that id.
    path = tmp_path / "saved" / "task.toml"
    path.write_text(path.read_text(encoding="utf-8").replace("seed = 0", "seed = 1", 1), encoding="utf-8")
    with pytest.raises(TaskError, match="was edited since it was saved"):
        load_task(tmp_path / "saved")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sink_norm": 0}, "sink_norm is 0"),
        ({"sink_norm": -1.0}, "sink_norm is -1"),
        ({"sink_norm": float("nan")}, "sink_norm is nan"),
        ({"sink_norm": "5"}, "sink_norm is '5'"),
        ({"seed": -1}, "seed is -1"),
        ({"context": "64"}, "context is '64'"),
        ({"context": 64.5}, "context is 64.5"),
        ({"bos": True}, "bos is True"),
        ({"hook": 5}, "hook is 5"),
        ({"hook": ""}, "hook is ''"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"save_task": 5}, "save_task is 5"),
        ({"hook_out": ["a"]}, "hook_out is"),
    ],
)
def test_settings_that_are_none_are_refused_with_a_word(settings: dict[str, Any], message: str) -> None:
    make: Any = adhoc_task.__wrapped__  # without the checks of types that tests have
    with pytest.raises(TaskError, match=message) as raised:
        make(**{"model": tiny.model_folder(), "text": DOCUMENTS, "hook": HOOK, **settings})
    assert raised.value.fix


@pytest.mark.parametrize(("unknown", "near"), [({"rung": "raw"}, "rungs"), ({"contxt": 16}, "context")])
def test_near_names_of_an_unknown_setting_are_offered(unknown: dict[str, Any], near: str) -> None:
    with pytest.raises(TaskError, match=f"score has no setting '{next(iter(unknown))}'") as raised:
        remainder.score(sae(), model=tiny.model_folder(), text=DOCUMENTS, **unknown)
    assert near in (raised.value.fix or "")


def test_a_task_takes_the_settings_of_a_score_and_says_what_is_left_out() -> None:
    text = [*DOCUMENTS, "w5 w6", "", "", DOCUMENTS[0]]
    chosen: dict[str, Any] = {"context": 24, "bos": 2, "sink_norm": 50.0, "seed": 3, "first": 51}
    settings: dict[str, Any] = {"model": tiny.model_folder(), "text": text, "device": "cpu", **chosen}
    task = adhoc_task(hook=HOOK, **settings)
    result = remainder.score(sae(), rungs="raw", **settings)
    assert result.record.task.id == task.task.id
    assert (task.task.corpus.window, task.task.corpus.bos, task.task.seed) == (24, 2, 3)
    said = "Documents of a list of strings left out: 2 empty, 1 shorter than a window of 24 tokens."
    assert said in task.task.description
    assert said in result.record.warnings
    assert said in remainder.evaluate(task.task.id, sae(), rungs="raw", device="cpu").record.warnings


def test_another_config_is_another_model_and_a_moved_one_is_told(tmp_path: Path) -> None:
    model, saved = tmp_path / "model", tmp_path / "saved"
    shutil.copytree(tiny.model_folder(), model)
    settings: dict[str, Any] = {"hook": HOOK, "text": DOCUMENTS, "device": "cpu", "sink_norm": 1e4}
    task = adhoc_task(model=model, save_task=saved, **settings).task
    own = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
    assert given_model(own).config_hash == given_model(model).config_hash == task.model.config_sha256
    config = model / "config.json"
    stated = json.loads(config.read_text(encoding="utf-8"))
    words = {**stated, "transformers_version": "4.0", "dtype": "bfloat16", "architectures": None}
    config.write_text(json.dumps({**words, "architectures": stated["architectures"]}), encoding="utf-8")
    assert given_model(model).config_hash == task.model.config_sha256
    for changed in (
        {"rms_norm_eps": 1e-3},
        {"hidden_act": "gelu"},
        {"rope_parameters": {"rope_theta": 99.0}},
    ):
        config.write_text(json.dumps({**stated, **changed}), encoding="utf-8")
        assert given_model(model).config_hash != task.model.config_sha256
    assert adhoc_task(model=model, **settings).task.id != task.id
    with pytest.raises(AssetError, match=r"config\.json is not the one that the task was made with"):
        remainder.evaluate(saved, sae(), rungs="raw", device="cpu")
    config.write_text(json.dumps(stated), encoding="utf-8")
    away = shutil.move(model, tmp_path / "away")
    with pytest.raises(AssetError, match="which the task names, is gone") as raised:
        remainder.evaluate(saved, sae(), rungs="raw", device="cpu")
    assert "`hub` in [model]" in (raised.value.fix or "")
    file = saved / "task.toml"
    file.write_text(file.read_text(encoding="utf-8").replace(str(model), str(away)), encoding="utf-8")
    assert remainder.evaluate(saved, sae(), rungs="raw", device="cpu").record.task.id == task.id
    tiny.save_model(tiny.make_model(seed=1), Path(away))
    with pytest.raises(AssetError, match="the task pins") as raised:
        remainder.evaluate(saved, sae(), rungs="raw", device="cpu")
    assert "another model lies in" in (raised.value.fix or "")


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    small = GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=VOCABULARY, n_positions=64)
    GPT2LMHeadModel(small).save_pretrained(tmp_path)
    with pytest.raises(AssetError, match="holds no tokenizer"):
        adhoc_task(model=tmp_path, hook="transformer.h.0", text=DOCUMENTS, device="cpu")


def test_it_is_on_no_board_and_is_measured_again_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, saved = tmp_path / "my-sae", tmp_path / "saved"
    sae().save_model(place)
    settings: dict[str, Any] = {"model": tiny.model_folder(), "text": DOCUMENTS, "device": "cpu"}
    result = remainder.score(place, save_task=saved, rungs="raw", **settings)
    path = result.save(tmp_path / "record.json")
    assert result.record.task.id.startswith("adhoc/")
    (remark,) = check_task(result.record)
    assert remark.is_fault
    assert "is ad hoc, and on no public board" in remark.text
    assert [remark.is_fault for remark in check_task(result.record, board=False)] == [False]
    with pytest.raises(TaskError, match="on no public board"):
        public_task(result.record.task.id)
    assert load_task(result.record.task.id).hash == result.record.task.hash
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "another machine's"))
    with pytest.raises(TaskError, match=r"there is no task adhoc/.* here"):
        rerun(path, submission=place)
    again = rerun(path, documents=2, submission=place, task=saved, seed="", nonce="")
    assert again.passed, again.faults


def test_a_score_equals_that_of_the_task_with_its_model_text_and_hook(tmp_path: Path) -> None:
    place = tiny.write_task(tmp_path / "tasks")
    corpus = remainder.open_task(place, device="cpu").corpus
    parts = zip(corpus.ids, corpus.bounds[:-1], corpus.bounds[1:], strict=True)
    rows = [
        {"id": name, "text": " ".join(f"w{token}" for token in corpus.tokens[start:end])}
        for name, start, end in parts
    ]
    text = tmp_path / "text.jsonl"
    text.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    hook = load_task(place).site.hook_out
    own = make_sae("StandardSAE", 1, {"hook_name": hook}, d_in=WIDTH, d_sae=24)
    expected = remainder.evaluate(place, own, rungs="full", device="cpu")
    model = tiny.model_folder()
    result = remainder.score(own, model=model, text=text, like=place, rungs="full", device="cpu")
    pd.testing.assert_frame_equal(result.values, expected.values, check_exact=False, rtol=0, atol=1e-6)
    assert result.record.documents.tokens == expected.record.documents.tokens


def test_hooks_are_those_that_are_stated(tmp_path: Path) -> None:
    transcoder = make_sae(
        "Transcoder",
        0,
        {"hook_name": "blocks.2.mlp.hook_in", "hook_name_out": "blocks.2.hook_mlp_out"},
        d_in=WIDTH,
        d_out=WIDTH,
        d_sae=24,
        apply_b_dec_to_input=False,
    )
    settings: dict[str, Any] = {
        "model": tiny.model_folder(),
        "text": DOCUMENTS,
        "device": "cpu",
        "rungs": "raw",
    }
    record = remainder.score(transcoder, **settings).record
    assert load_task(record.task.id).site.hook_in == "blocks.2.mlp.hook_in"
    assert load_task(record.task.id).site.hook_out == "blocks.2.hook_mlp_out"
    with pytest.raises(TaskError, match="does not say at which hook it was made") as raised:
        remainder.score(tiny.Shrink(), **settings)
    assert "--hook HOOK" in (raised.value.fix or "")
    assert remainder.score(tiny.Shrink(), hook="blocks.3.hook_attn_out", **settings).record.metrics
    with pytest.raises(TaskError, match=r"no hook .blocks\.1\.hook_resid_per."):
        remainder.score(sae(), hook="blocks.1.hook_resid_per", **settings)
    wide = make_sae("StandardSAE", 0, {"hook_name": HOOK}, d_in=WIDTH + 1, d_sae=24)
    with pytest.raises(InterpretationError, match=f"d_in is {WIDTH + 1}"):
        remainder.score(wide, **settings)
    with pytest.raises(InterpretationError, match=r"was trained at blocks\.1\.hook_resid_pre"):
        remainder.score(sae(), hook="blocks.2.hook_mlp_out", **settings)


def test_tasks_are_not_written_over_others(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"model": tiny.model_folder(), "hook": HOOK, "device": "cpu"}
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    with pytest.raises(TaskError, match="there is something else in it"):
        adhoc_task(text=DOCUMENTS, save_task=tmp_path / "full", **settings)
    settings["sink_norm"] = 1e4
    loaded = adhoc_task(text=DOCUMENTS, save_task=tmp_path / "one", **settings)
    assert loaded.task.positions.sink_norm == 1e4
    assert save_task(loaded.task, loaded.corpus, tmp_path / "one") == tmp_path / "one"
    other = adhoc_task(text=DOCUMENTS[1:], **settings)
    with pytest.raises(TaskError, match="holds another task"):
        save_task(other.task, other.corpus, tmp_path / "one")


@pytest.mark.slow
def test_tiny_wiki_by_its_model_text_and_hook() -> None:
    task = load_task("tiny/wiki")
    model = project_root() / task.model.folder
    own = make_sae("StandardSAE", 1, {"hook_name": task.site.hook_out}, d_in=task.site.width, d_sae=256)
    settings: dict[str, Any] = {"rungs": "full", "documents": 4, "device": "cpu"}
    expected = remainder.evaluate(task, own, **settings)
    result = remainder.score(own, model=model, text=text_of(task.corpus.wheel), like=task, **settings)
    pd.testing.assert_frame_equal(result.values, expected.values, check_exact=False, rtol=0, atol=1e-6)
    clean, again = (found.record.metrics.clean.loss.value for found in (expected, result))
    assert clean == pytest.approx(again, abs=1e-6)
