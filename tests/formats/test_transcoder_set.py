"""Sets of transcoders on a hub and here: which files are wanted, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from format_files import random_weights, write_circuit_tracer
from hub_files import connected
from hub_server import Hub
from safetensors.torch import load_file

from remainder.errors import AssetError, InterpretationError
from remainder.formats.transcoder_set import open_set

LAYERS = {block: random_weights(seed=block) for block in range(3)}
REPO = "somebody/transcoders"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with connected(tmp_path / "hub-cache", monkeypatch) as hub:
        yield hub


def test_of_a_set_without_a_list_only_the_blocks_are_fetched(hub: Hub, tmp_path: Path) -> None:
    write_circuit_tracer(tmp_path / "repo" / "wide" / "set", LAYERS)
    (tmp_path / "repo" / "wide" / "set" / "features.bin").write_bytes(b"dashboards")
    commit = hub.add(REPO, tmp_path / "repo")
    one = open_set(f"{REPO}/wide/set@{commit}", blocks=2)
    assert one.scan == f"{REPO}/wide/set"
    assert one.hooks(1) == ("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")
    one.require_blocks(2)
    files = one.fetched(2)
    assert list(files) == [0, 1]
    torch.testing.assert_close(load_file(files[1])["W_dec"], LAYERS[1]["W_dec"])
    assert len(hub.downloads()) == 3
    with pytest.raises(InterpretationError, match=r"there is no file layer_3\.safetensors of block 3"):
        open_set(f"hub:{REPO}/wide/set", blocks=4).fetched(4)


def test_a_list_names_files_of_its_own_repository_or_by_address(hub: Hub, tmp_path: Path) -> None:
    write_circuit_tracer(tmp_path / "other", {7: LAYERS[2]})
    commit = hub.add("somebody/other", tmp_path / "other")
    listed = ["layer_0.safetensors", f"hf://somebody/other/layer_7.safetensors?revision={commit}"]
    write_circuit_tracer(tmp_path / "set", {0: LAYERS[0]}, listed)
    hub.add(REPO, tmp_path / "set")
    for named in (REPO, str(tmp_path / "set"), str(tmp_path / "set" / "config.yaml")):
        files = open_set(named).fetched(2)
        torch.testing.assert_close(load_file(files[1])["W_dec"], LAYERS[2]["W_dec"])


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (["../../else/layer_0.safetensors"], "which lies outside of it"),
        (["hf://somebody/layer_0.safetensors"], "is no file of a hub"),
        (["https://example.org/layer_0.safetensors"], "is no file of a hub"),
        ([{"layer": 0, "filepath": "a"}, {"layer": 0, "filepath": "b"}], "lists layer 0 more than once"),
    ],
)
def test_addresses_that_lead_elsewhere_are_refused(
    hub: Hub, tmp_path: Path, listed: list[object], message: str
) -> None:
    write_circuit_tracer(tmp_path / "set", {}, listed)
    hub.add(REPO, tmp_path / "set")
    with pytest.raises(InterpretationError, match=message):
        open_set(REPO).fetched(1)


def test_more_than_is_allowed_is_not_fetched(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_circuit_tracer(tmp_path / "set", LAYERS)
    hub.add(REPO, tmp_path / "set")
    monkeypatch.setenv("REMAINDER_HUB_GB", "0.000001")
    with pytest.raises(AssetError, match="may be downloaded"):
        open_set(REPO, blocks=3).fetched(3)


def test_settings_that_nobody_knows_are_refused_by_name(tmp_path: Path) -> None:
    write_circuit_tracer(tmp_path / "set", LAYERS, strange=True)
    with pytest.raises(InterpretationError, match="strange"):
        open_set(str(tmp_path / "set"))
    path = tmp_path / "set" / "config.yaml"
    path.write_text(yaml.safe_dump({"model": "gpt2"}))
    with pytest.raises(InterpretationError, match="is YAML with the fields model"):
        open_set(str(tmp_path / "set"))
