"""A model in pieces, under terms: joined only of what is pinned, and fetched only once they are accepted."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from terminal import Command

from remainder.errors import AssetError
from remainder.loading import fetch as module
from remainder.loading.gguf import ACCEPT_TERMS, join, require_terms
from remainder.task.spec import ModelSpec, PartsSpec, TermsSpec, WheelSpec, list_tasks, load_task

PIECES = (b"one piece, ", b"another, ", b"the last")
UNDER_TERMS = [name for name in list_tasks() if load_task(name).model.terms is not None]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def wheel(number: int, data: bytes) -> WheelSpec:
    return WheelSpec(
        package=f"tiny-part{number}", version="1.0", wheel_sha256="0" * 64, file=f"tiny/part{number}",
        sha256=sha256(data), size=len(data),
    )  # fmt: skip


def model(**changed: Any) -> ModelSpec:
    parts = PartsSpec(
        file="tiny.gguf",
        sha256=sha256(b"".join(PIECES)),
        wheels=tuple(wheel(number, data) for number, data in enumerate(PIECES)),
    )
    terms = TermsSpec(id="tiny", name="Tiny Terms", url="https://example.org/terms")
    return ModelSpec(**{"name": "tiny", "licence": "Tiny Terms", "parts": parts, "terms": terms, **changed})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a pip that finds nothing."""
    monkeypatch.delenv(ACCEPT_TERMS, raising=False)
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("remainder.base.cache._run", lambda *arguments: (1, ["ERROR: found nothing"]))
    return tmp_path / "cache"


def put(cache: Path, data: bytes, number: int, pinned: str | None = None) -> None:
    """Put a piece into the cache, where it may lie by hand."""
    folder = cache / "files" / (pinned or sha256(data))
    folder.mkdir(parents=True)
    (folder / f"part{number}").write_bytes(data)


def test_nothing_is_fetched_before_its_terms_are_accepted(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AssetError, match=r"under the Tiny Terms \(https://example.org/terms\)") as caught:
        module.local_model(model())
    assert not cache.exists()
    assert "--accept-terms tiny" in str(caught.value.fix)
    assert f"{ACCEPT_TERMS}=tiny" in str(caught.value.fix)
    require_terms(model(), ["tiny"])
    require_terms(model(terms=None), [])
    monkeypatch.setenv(ACCEPT_TERMS, "others, tiny")
    require_terms(model(), [])
    with pytest.raises(AssetError, match="must be accepted"):
        require_terms(model(terms=TermsSpec(id="tin", name="T", url="https://x.org")), [])


def test_pieces_are_joined_and_what_is_missing_or_altered_is_named(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[bytes] = []

    def dequantise(gguf: Path, spec: ModelSpec, folder: Path) -> None:
        read.append(gguf.read_bytes())
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(module, "_dequantise", dequantise)
    for number in (0, 1):
        put(cache, PIECES[number], number)
    with pytest.raises(AssetError, match=r"tiny-part2==1\.0 cannot be fetched"):
        module.local_model(model(), accepted=["tiny"])
    put(cache, b"another l", 2, sha256(PIECES[2]))
    with pytest.raises(AssetError, match="part2 has 9 bytes; expected 8"):
        module.local_model(model(), accepted=["tiny"])
    (cache / "files" / sha256(PIECES[2]) / "part2").write_bytes(PIECES[2])
    folder = module.local_model(model(), accepted=["tiny"])
    assert read == [b"".join(PIECES)]
    # The whole file is not kept: what is read from it is, and then nobody is asked again.
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "manifest.json"]
    assert module.local_model(model()) == folder


def test_pieces_in_another_order_are_no_model(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(3)]
    for path, data in zip(paths, PIECES, strict=True):
        path.write_bytes(data)
    parts = model().parts
    assert parts is not None
    assert parts.size == 28
    with pytest.raises(AssetError, match=r"tiny.gguf, joined of 3 pieces, has SHA-256"):
        join(parts, paths[::-1], tmp_path / "wrong")
    assert join(parts, paths, tmp_path / "right").read_bytes() == b"".join(PIECES)


def test_a_model_lies_in_one_place() -> None:
    assert model().source == "tiny-part0==1.0 + tiny-part1==1.0 + tiny-part2==1.0"
    assert model().is_language_model
    assert not model().is_open
    with pytest.raises(ValidationError, match="exactly one of"):
        model(hub="somebody/tiny")


def test_the_command_names_the_terms(remainder: Command, cache: Path) -> None:
    suite = UNDER_TERMS[0].split("/")[0]
    refused = remainder("fetch", suite)
    assert refused.code == 4
    assert "must be accepted" in refused.err
    assert not cache.exists()
    misspelt = remainder("fetch", UNDER_TERMS[0], "--accept-terms", "others")
    assert misspelt.code == 3
    assert "no model of the chosen tasks is under such terms" in misspelt.err
    assert "terms" in remainder("show", UNDER_TERMS[0]).out


def test_terms_do_not_move_the_hash() -> None:
    task = load_task(UNDER_TERMS[0])
    bare = task.model_copy(update={"model": task.model.model_copy(update={"terms": None})})
    assert bare.hash == task.hash


@pytest.mark.slow
@pytest.mark.parametrize("name", UNDER_TERMS[:1])
def test_the_losses_are_those_of_transformers_alone(name: str) -> None:
    """Where somebody has accepted the terms and fetched it."""
    import torch
    from transformers import AutoModelForCausalLM

    from remainder.loading.open import at_site, open_task

    task = load_task(name)
    try:
        folder = module.local_model(task.model)
    except AssetError as problem:
        pytest.skip(problem.what)
    loaded = at_site(open_task(task, device="cpu"))
    tokens = torch.from_numpy(loaded.windows("evaluation").first(2).inputs)
    runner = loaded.runner("float32")
    with torch.inference_mode():
        plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        expected = plain(tokens).logits
        prefix = runner.prefix(tokens)
        hidden = runner.suffix(tokens, prefix, prefix.x_out)
        found = torch.stack([runner.logits(rows) for rows in hidden])
    assert type(plain).__name__ == "Gemma3ForCausalLM"
    losses = [
        torch.nn.functional.cross_entropy(
            each[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
        )
        for each in (expected, found)
    ]
    torch.testing.assert_close(losses[1], losses[0], atol=1e-4, rtol=0)
