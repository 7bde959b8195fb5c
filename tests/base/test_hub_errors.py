"""Every way in which a hub says no is one message that says what to do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from format_files import random_weights, write_circuit_tracer
from hub_files import (
    LATENTS,
    SAES,
    SCOPE,
    SCOPE_ID,
    connected,
    point_at,
    release,
    sae_repository,
    scope_repository,
    sha256,
)
from hub_server import Hub, serving
from tiny import SITE, WIDTH, make_task

from remainder.errors import AssetError, InterpretationError
from remainder.formats import circuit_tracer
from remainder.formats import hub as reader
from remainder.submission.open import open_submission
from remainder.submission.submission import Submission


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with connected(tmp_path / "hub-cache", monkeypatch) as hub:
        yield hub


@pytest.fixture
def saes(hub: Hub, tmp_path: Path) -> str:
    """The commit of a repository of SAEs on the hub."""
    return hub.add(SAES, sae_repository(tmp_path / "saes"))


def test_a_repository_that_does_not_exist(hub: Hub) -> None:
    with pytest.raises(
        AssetError, match="there is no repository test/nothing on the hub, or it is private"
    ) as raised:
        open_submission("hub:test/nothing:x")
    assert f"{hub.url}/test/nothing" in (raised.value.fix or "")
    assert "hf auth login" in (raised.value.fix or "")


@pytest.mark.parametrize(
    ("sae_id", "near"),
    [("blocks.2.hook_resid_pr", SITE), ("blocks.1.resid_pre", "blocks.1.hook_resid_pre"), ("zzz", SITE)],
)
def test_an_sae_that_does_not_exist(sae_id: str, near: str, hub: Hub, saes: str) -> None:
    with pytest.raises(InterpretationError, match=f"{SAES} has no SAE '{sae_id}'") as raised:
        open_submission(f"hub:{SAES}:{sae_id}")
    assert near in (raised.value.fix or "")
    assert hub.downloads() == []


def test_a_folder_of_folders_names_those_below(hub: Hub, tmp_path: Path) -> None:
    """And does not fetch them all."""
    hub.add(SCOPE, scope_repository(tmp_path / "scope"))
    with pytest.raises(InterpretationError, match="has no SAE 'layer_1'") as raised:
        open_submission(f"hub:{SCOPE}:layer_1")
    assert f"did you mean {SCOPE_ID}?" in (raised.value.fix or "")
    assert hub.downloads() == []


def test_a_gated_repository_needs_a_token(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(SAES, sae_repository(tmp_path / "saes"), token="hf_right")
    with pytest.raises(AssetError, match=rf"{SAES} is gated.* \(status 401\)") as raised:
        open_submission(f"hub:{SAES}:{SITE}")
    assert f"accept the licence on {hub.url}/{SAES}" in (raised.value.fix or "")
    assert "hf auth login" in (raised.value.fix or "")
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert open_submission(f"hub:{SAES}:{SITE}").is_pinned


@pytest.mark.parametrize("revision", ["no-such-branch", "0" * 40])
@pytest.mark.parametrize("place", [SAES, "tiny-release"])
def test_a_revision_that_does_not_exist(
    revision: str, place: str, hub: Hub, saes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(monkeypatch, SAES, None)
    sae_id = SITE if place == SAES else "one"
    with pytest.raises(AssetError, match=f"{SAES} has no revision '{revision}'"):
        open_submission(f"hub:{place}@{revision}:{sae_id}")


@pytest.mark.parametrize("revision", ["main", "0" * 40])
@pytest.mark.parametrize("place", [SAES, "tiny-release"])
def test_a_hub_that_cannot_be_reached(
    revision: str, place: str, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving() as gone:
        pass
    release(monkeypatch, SAES, None)
    point_at(gone.url, monkeypatch)
    naps: list[float] = []
    monkeypatch.setattr(time, "sleep", naps.append)
    with pytest.raises(AssetError, match=f"hub at {gone.url} cannot be reached") as raised:
        open_submission(f"hub:{place}@{revision}:{SITE if place == SAES else 'one'}")
    assert "check the network, the proxy and HF_ENDPOINT" in (raised.value.fix or "")
    assert sum(naps) < 60


def test_offline_and_not_in_the_cache(hub: Hub, saes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    open_submission(f"hub:{SAES}:{SITE}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name in (f"{SAES}:blocks.1.hook_resid_pre", "test/nothing:x"):
        with pytest.raises(AssetError, match=r"not, or not whole, in the cache .* HF_HUB_OFFLINE"):
            open_submission(f"hub:{name}")


def test_a_hub_that_is_out_of_order(hub: Hub, saes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.status = 503
    with pytest.raises(AssetError, match=f"cannot give {SAES} now: it answers with status 503"):
        open_submission(f"hub:{SAES}:{SITE}")


def test_only_pickles(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "pickles" / "layer_3"
    folder.mkdir(parents=True)
    (folder / "cfg.json").write_text("{}")
    torch.save({"W_dec": torch.zeros(3)}, folder / "sae_weights.pt")
    hub.add("test/pickles", tmp_path / "pickles")
    with pytest.raises(
        InterpretationError, match=r"no weights in safetensors, only layer_3/sae_weights.pt"
    ) as raised:
        open_submission("hub:test/pickles:layer_3")
    assert "save_file(torch.load(FILE, weights_only=True)" in (raised.value.fix or "")
    assert hub.downloads() == ["/test/pickles/resolve/" + open_commit(hub) + "/layer_3/cfg.json"]


def open_commit(hub: Hub) -> str:
    """The newest commit of the repository of pickles."""
    return list(hub.repositories["test/pickles"].commits)[-1]


def test_a_download_that_breaks_off(
    hub: Hub, saes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.cut = 100
    with pytest.raises(AssetError, match=f"a file of {SAES} did not come whole: .*100") as raised:
        open_submission(f"hub:{SAES}:{SITE}")
    assert "run again" in (raised.value.fix or "")
    hub.cut = None
    weights = tmp_path / "saes" / SITE / "sae_weights.safetensors"
    assert sha256(weights) in open_submission(f"hub:{SAES}:{SITE}").files.values()


def test_a_file_that_is_no_safetensors(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = sae_repository(tmp_path / "saes")
    (folder / SITE / "sae_weights.safetensors").write_bytes(b"<html>no such thing</html>" * 9)
    hub.add(SAES, folder)
    with pytest.raises(InterpretationError, match=r"sae_weights.safetensors .*safetensors file"):
        open_submission(f"hub:{SAES}:{SITE}")
    release(monkeypatch, SAES, None)
    with pytest.raises(
        InterpretationError,
        match=r"is not a readable safetensors file .*does not begin with the length of a header",
    ):
        open_submission("hub:tiny-release:one")


def test_a_list_of_files_names_none_beyond_its_folder(hub: Hub, tmp_path: Path) -> None:
    """Such a file is not hashed, and what lies on this machine is none of the hub's business."""
    own = write_circuit_tracer(tmp_path / "own", {2: random_weights(WIDTH, LATENTS)})
    private = [{"layer": 2, "filepath": str(own / "layer_2.safetensors")}]
    listed = write_circuit_tracer(
        tmp_path / "repo" / "set", {1: random_weights(WIDTH, LATENTS)}, private, model_name="tiny"
    )
    assert submission_on(hub, tmp_path / "repo").method.format == "circuit-tracer"
    with pytest.raises(InterpretationError, match=r"layer_2\.safetensors lies outside of the folder"):
        submission_on(hub, tmp_path / "repo").build(make_task(), lambda: pytest.fail("none"))
    # The same list on this machine is its user's own.
    assert str(own) in str(circuit_tracer.files(listed))


def submission_on(hub: Hub, folder: Path) -> Submission:
    hub.add("test/sets", folder)
    return open_submission("hub:test/sets:set")


@pytest.mark.parametrize("text", ["a/b", ":x", "a/b:", "a/b@:x", "a/b:/", "a/b:../../secret"])
def test_what_names_no_sae(text: str) -> None:
    with pytest.raises(InterpretationError, match="does not name an SAE"):
        open_submission(f"hub:{text}")


def test_a_revision_is_given_once() -> None:
    assert reader.parse("a/b@c:d") == reader.parse("a/b:d", "c")
    assert str(reader.parse("a/b@c:d/e")) == "hub:a/b@c:d/e"
    with pytest.raises(InterpretationError, match="does not name an SAE"):
        reader.parse("a/b@c:d", "e")


def test_a_release_or_an_sae_that_is_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InterpretationError, match="sae-lens lists no release 'gpt2-small-res-jbb'") as raised:
        open_submission("hub:gpt2-small-res-jbb:x")
    assert "gpt2-small-res-jb" in (raised.value.fix or "")
    with pytest.raises(InterpretationError, match=r"has no SAE 'blocks.8.resid_pre'") as raised:
        open_submission("hub:gpt2-small-res-jb:blocks.8.resid_pre")
    assert "blocks.8.hook_resid_pre" in (raised.value.fix or "")


# what somebody else's address may make this machine download


def test_more_than_is_allowed_is_refused_before_a_byte_is_fetched(
    hub: Hub, saes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REMAINDER_HUB_GB", "1e-6")
    release(monkeypatch, SAES, None)
    for address in (f"{SAES}:{SITE}", f"{SAES}@{saes}:{SITE}"):
        with pytest.raises(AssetError, match=r"sae_weights.safetensors of .* at most 1e-06 GB") as raised:
            open_submission(f"hub:{address}")
        assert "REMAINDER_HUB_GB" in (raised.value.fix or "")
    assert hub.downloads() == []


def test_files_of_a_release_are_added_up(hub: Hub, saes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which sae-lens asks for one by one: the config may pass, the weights come on top of it."""
    release(monkeypatch, SAES, None)
    weights = len(hub.repositories[SAES].commits[saes][f"{SITE}/sae_weights.safetensors"])
    config = len(hub.repositories[SAES].commits[saes][f"{SITE}/cfg.json"])
    monkeypatch.setenv("REMAINDER_HUB_GB", str((weights + config - 1) / 1e9))
    with pytest.raises(AssetError, match="submission's files on the hub take"):
        open_submission(f"hub:tiny-release@{saes}:one")
    assert all(path.endswith("cfg.json") for path in hub.downloads())
    monkeypatch.setenv("REMAINDER_HUB_GB", str((weights + config) / 1e9))
    assert open_submission(f"hub:tiny-release@{saes}:one").commit == saes


def test_what_is_allowed_is_fetched_and_only_what_is_asked_for_counts(
    hub: Hub, saes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The repository holds another SAE of the same size."""
    files = hub.repositories[SAES].commits[saes]
    wanted = sum(len(content) for name, content in files.items() if name.startswith(f"{SITE}/"))
    assert wanted < sum(map(len, files.values()))
    monkeypatch.setenv("REMAINDER_HUB_GB", str(wanted / 1e9))
    assert open_submission(f"hub:{SAES}:{SITE}").commit == saes


@pytest.mark.parametrize("text", ["", "much", "0", "-1", "nan"])
def test_a_limit_that_is_no_number_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMAINDER_HUB_GB", text)
    with pytest.raises(AssetError, match=r"REMAINDER_HUB_GB is .* not a number above 0"):
        open_submission(f"hub:{SAES}:{SITE}")
