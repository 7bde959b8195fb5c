"""The small language model of Wikipedia: its files, its splits, and the n-gram models that it must beat."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from remainder.loading.loaded import LoadedTask
from remainder.loading.open import open_task
from remainder.submission.open import open_submission
from remainder.task.script import load_script
from remainder.task.spec import Task, load_task
from remainder.task.text import Split, Windows

ROOT = Path(__file__).resolve().parents[2]
TASKS = ("tiny/wiki", "tiny/wiki-mlp")
SPARSE = ("topk", "jumprelu", "l1")
SPLITS: tuple[Split, ...] = ("evaluation", "calibration", "fit")


@pytest.fixture(scope="module")
def kneser_ney() -> ModuleType:
    module: ModuleType = load_script(ROOT / "tasks" / "tiny" / "wiki" / "kneser_ney.py")
    return module


@pytest.fixture(scope="module")
def loaded() -> LoadedTask:
    torch.set_num_threads(1)
    return open_task("tiny/wiki", device="cpu", batch_size=8)


# --- Kneser-Ney ---

VOCABULARY, BOS = 14, 0


def toy_documents() -> list[NDArray[np.int32]]:
    """A few hundred tokens with frequencies as in text, and pairs that are more frequent than chance."""
    generator = np.random.default_rng(7)
    weights = 1 / np.arange(1, VOCABULARY) ** 1.3
    documents = []
    for length in (150, 90, 60, 40):
        tokens = generator.choice(np.arange(1, VOCABULARY), size=length, p=weights / weights.sum())
        for place in range(1, length):
            if generator.random() < 0.4:
                tokens[place] = 1 + tokens[place - 1] * 5 % (VOCABULARY - 1)
        documents.append(tokens.astype(np.int32))
    return documents


class Textbook:
    """Chen and Goodman's recursion as it is printed, with dictionaries of tuples and a loop for every sum."""

    def __init__(self, documents: list[NDArray[np.int32]], order: int) -> None:
        grams: Counter[tuple[int, ...]] = Counter()
        for document in documents:
            padded = [BOS] * (order - 1) + document.tolist()
            grams.update(tuple(padded[end - order : end]) for end in range(order, len(padded) + 1))
        self.counts = {order: dict(grams)}
        for length in range(order - 1, 0, -1):
            preceding: dict[tuple[int, ...], set[int]] = defaultdict(set)
            for gram in self.counts[length + 1]:
                preceding[gram[1:]].add(gram[0])
            self.counts[length] = {gram: len(found) for gram, found in preceding.items()}

    def discount(self, length: int, count: int) -> float:
        if count == 0:
            return 0.0
        n = [sum(1 for c in self.counts[length].values() if c == number) for number in range(5)]
        if n[1] and n[2] and n[3]:
            y = n[1] / (n[1] + 2 * n[2])
            estimates = [k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)]
            if all(0 <= estimate <= k for k, estimate in zip((1, 2, 3), estimates, strict=True)):
                return estimates[min(count, 3) - 1]
        return 0.5 * min(count, 3)

    def probability(self, word: int, history: tuple[int, ...]) -> float:
        length = len(history) + 1
        following = {gram[-1]: c for gram, c in self.counts[length].items() if gram[:-1] == history}
        shorter = self.probability(word, history[1:]) if history else 1 / (VOCABULARY - 1)
        if not following:
            return shorter
        total = sum(following.values())
        freed = sum(self.discount(length, count) for count in following.values())
        count = following.get(word, 0)
        return (count - self.discount(length, count)) / total + freed / total * shorter


@pytest.mark.parametrize("order", [1, 2, 3])
def test_kneser_ney_is_the_textbook_recursion(kneser_ney: ModuleType, order: int) -> None:
    documents = toy_documents()
    model = kneser_ney.KneserNey.fit(documents, order=order, vocabulary=VOCABULARY, bos=BOS)
    textbook = Textbook(documents, order)
    rows = np.random.default_rng(1).integers(1, VOCABULARY, (6, 12))
    rows[0] = documents[0][:12]
    found = model.probabilities(rows)
    for row, probabilities in zip(rows.tolist(), found, strict=True):
        padded = [BOS] * (order - 1) + row
        for place, word in enumerate(row):
            history = tuple(padded[place : place + order - 1])
            assert probabilities[place] == pytest.approx(textbook.probability(word, history), rel=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_kneser_ney_probabilities_sum_to_one(kneser_ney: ModuleType, order: int) -> None:
    """After histories that were seen, that were not, and at the beginning of a document."""
    model = kneser_ney.KneserNey.fit(toy_documents(), order=order, vocabulary=VOCABULARY, bos=BOS)
    words = np.arange(1, VOCABULARY)[:, None]
    for history in ([], [1], [3, 1], [1, 1, 2], [13, 13, 13], [12, 5, 9]):
        rows = np.concatenate([np.tile(history, (len(words), 1)).astype(int), words], axis=1)
        probabilities = model.probabilities(rows)[:, -1]
        assert probabilities.min() > 0
        assert probabilities.sum() == pytest.approx(1, abs=1e-12)


def test_discounts_by_hand(kneser_ney: ModuleType) -> None:
    """n₁ = 10, n₂ = 5, n₃ = 2, n₄ = 1: Y = 1/2, so D = 1 − 1/2, 2 − 3/5, 3 − 1."""
    counts = np.repeat([1, 2, 3, 4, 9], [10, 5, 2, 1, 3])
    np.testing.assert_allclose(kneser_ney.discounts(counts), [0, 0.5, 1.4, 2.0], rtol=1e-14)
    np.testing.assert_array_equal(kneser_ney.discounts(np.array([7, 8, 9])), [0, 0.5, 1.0, 1.5])


# --- Files and splits ---


@pytest.mark.parametrize("name", TASKS)
def test_tokenizer_weights_and_text_are_the_pinned_ones(loaded: LoadedTask, name: str) -> None:
    task = load_task(name)
    assert task.corpus is not None
    assert loaded.corpus.hash == task.corpus.tokens_sha256
    assert loaded.model.sha256 == task.model.weights_sha256
    tokenizer = loaded.given.tokenizer
    text = "Energy is naïve, 3.14 – said Ångström.\n\nNew line"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert len(tokenizer) == 4096
    assert tokenizer.bos_token_id == task.corpus.bos


def test_the_tasks_differ_in_site_and_name_only() -> None:
    one, other = (load_task(name) for name in TASKS)

    def shared(task: Task) -> dict[str, object]:
        names = {"id", "title", "description", "site", "positions", "seed"}
        return task.model_dump(exclude=dict.fromkeys(names, True))

    assert shared(one) == shared(other)
    assert (one.site.hook_in, other.site.hook_in) == ("blocks.2.hook_resid_pre", "blocks.2.hook_mlp_out")


def test_splits_share_no_document_and_every_one_is_large_enough(loaded: LoadedTask) -> None:
    splits = {split: loaded.corpus.documents(split) for split in SPLITS}
    assert {split: len(documents) for split, documents in splits.items()} == {
        "evaluation": 40,
        "calibration": 20,
        "fit": 45,
    }
    assert len(set().union(*splits.values())) == 105


def test_everything_fits_the_space_it_may_take() -> None:
    folders = [*ROOT.glob("tasks/tiny/wiki*"), *ROOT.glob("baselines/wiki-*")]
    files = [
        path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"
    ]
    assert sum(path.stat().st_size for path in files) < 3_600_000


# --- How good it is ---


def scored_losses(loaded: LoadedTask, windows: Windows) -> NDArray[np.float64]:
    """Loss of every token that the task scores: all but the first, which is predicted where BOS stands."""
    tokens = torch.from_numpy(windows.inputs)
    with torch.inference_mode():
        logits = loaded.runner("float32").full_logits(tokens)[:, 1:-1]
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 2:], reduction="none")
    return losses.double().numpy()


def test_it_beats_kneser_ney_of_the_same_text_and_tokens(loaded: LoadedTask, kneser_ney: ModuleType) -> None:
    """On the first window of every evaluation document, by more than three standard errors over documents."""
    corpus = loaded.corpus
    fit = [corpus.tokens[corpus.bounds[d] : corpus.bounds[d + 1]] for d in corpus.documents("fit")]
    windows = corpus.windows("evaluation").first(40)
    assert len(set(windows.documents)) == 40
    model = scored_losses(loaded, windows).mean(1)
    for order in (2, 3):
        ngrams = kneser_ney.KneserNey.fit(fit, order=order, vocabulary=4096, bos=0)
        lead = -np.log(ngrams.probabilities(windows.inputs[:, 1:])[:, 1:]).mean(1) - model
        assert lead.mean() > 3 * lead.std(ddof=1) / len(lead) ** 0.5


def test_the_loss_is_the_one_in_the_log(loaded: LoadedTask) -> None:
    """The log tells the loss on all windows; here are two of every document, so within sampling error."""
    log = [json.loads(line) for line in (ROOT / "tasks/tiny/wiki/train.log").read_text().splitlines()]
    logged = next(line["evaluation"] for line in log if "evaluation" in line)["stored as float16"]
    losses = scored_losses(loaded, loaded.corpus.windows("evaluation").first(80)).mean(1)
    assert abs(losses.mean() - logged["value"]) < 4 * losses.std(ddof=1) / len(losses) ** 0.5


# --- Sparse autoencoders ---


@pytest.mark.parametrize("kind", SPARSE)
@pytest.mark.parametrize("site", ["wiki", "wiki-mlp"])
def test_sparse_autoencoders_do_what_their_logs_say(site: str, kind: str) -> None:
    """Active latents and variance explained on calibration, which neither training nor the log has seen."""
    folder = ROOT / "baselines" / f"{site}-{kind}"
    logged = json.loads((folder / "train.log").read_text().splitlines()[-1])
    assert (logged["task"], logged["kind"]) == (f"tiny/{site}", kind)
    loaded = open_task(f"tiny/{site}", device="cpu", batch_size=8)
    sae = open_submission(folder).build(loaded.task, lambda: loaded.fit_moments(2))
    rows = loaded.rows("calibration", 40)[None]
    with torch.inference_mode():
        codes = sae.encode(rows)
        left = (rows - sae.decode(codes)).square().sum() / (rows - rows.mean(1)).square().sum()
    l0 = float((codes != 0).sum(-1).float().mean())
    assert l0 == pytest.approx(logged["float16"]["evaluation"]["l0"], rel=0.15)
    assert 8 < l0 < 16
    assert float(left) == pytest.approx(logged["float16"]["evaluation"]["fvu"], rel=0.2)
    assert logged["float16"]["fit"]["dead_share"] < 0.1
