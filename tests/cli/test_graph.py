"""`remainder run --graph`: from a graph and its transcoders to a table; what is wrong is said first."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from graph_files import IDS, LATENTS, WEIGHTS, Parts, ScopeWorld, World
from hub_files import connected
from safetensors.torch import load_file, save_file
from terminal import Command, Outcome
from torch import Tensor
from typer.main import get_command

from remainder.base.paths import project_root
from remainder.cli.main import app
from remainder.loading.graph_prompts import ORDERS
from remainder.record.intervals import MINIMUM_DOCUMENTS
from remainder.record.store import read_record
from remainder.submission.feature_circuits import _AWAY
from remainder.submission.graphs import prepare_graphs
from remainder.task.spec import load_task

CPU = ("--device", "cpu")
PAGE = (project_root() / "docs" / "feature-circuits.md").read_text(encoding="utf-8")
LONGER = (*IDS, 12)
FIELD = Path(__file__).parents[1] / "formats" / "circuit_tracer_0_5_0.json"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Files that every test reads, and none changes."""
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with a cache of its own."""
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def kl(world: World, tokens: Tensor, other: Tensor) -> float:
    """KL of the model's last prediction to another one, in nats."""
    clean = world.record(tokens)[1][0, -1].log_softmax(-1)
    return float((clean.exp() * (clean - other[0, -1].log_softmax(-1))).sum())


def means(world: World, tokens: Tensor) -> dict[int, Parts]:
    return {block: (part[0].mean(0), part[1].mean(0)) for block, part in world.record(tokens)[0].items()}


def keeps(path: Path, length: int) -> dict[int, Parts]:
    """Flags of the nodes that a graph has, from the JSON alone."""
    found = {
        block: (torch.zeros(length, LATENTS).bool(), torch.zeros(length).bool())
        for block in range(tiny.LAYERS)
    }
    for node in json.loads(path.read_text())["nodes"]:
        if node["feature_type"].startswith("cross"):
            found[int(node["layer"])][0][node["ctx_idx"], int(node["node_id"].split("_")[1])] = True
        if node["feature_type"].startswith("mlp"):
            found[int(node["layer"])][1][node["ctx_idx"]] = True
    return found


def none_of(flags: dict[int, Parts]) -> dict[int, Parts]:
    return {block: (torch.zeros_like(part[0]), torch.zeros_like(part[1])) for block, part in flags.items()}


def test_graphs_are_scored_in_one_command(world: World, place: Path, remainder: Command) -> None:
    """Each prompt by its own graph; kept nodes in hooks on the model of transformers give the same KL."""
    Path("graphs").mkdir()
    made = (world.graph("some", 0.5), world.graph("whole", 1.1, ids=LONGER))
    graphs = {path.stem: path.rename(place / "graphs" / path.name) for path in made}
    (place / "graphs" / "graph-metadata.json").write_text('{"graphs": []}')  # circuit-tracer's own
    Path("set").symlink_to(world.folder / "set")
    (command,) = re.findall(r"^remainder (run --graph .*)$", PAGE, re.MULTILINE)
    found = remainder(*command.split(), "--pairs", "1", *CPU)
    assert found.code == 0, found.err
    assert max(map(len, found.out.splitlines())) <= 80
    words = " ".join(found.err.split())
    assert "some (6 tokens)" in words
    assert f"{ORDERS} other orders of the words of whole" in words
    (path,) = (place / "results").glob("adhoc/*/1/2-graphs/*.json")
    record, values = read_record(path)
    assert record.task.id.startswith("adhoc/model-prompts-")
    assert record.measurement.behaviour is None
    assert any("are off by" in warning for warning in record.warnings)
    kls = values.set_index(["document", "rung", "draw"])["kl"]
    stored = load_file(place / "saved" / "prompts.safetensors")
    for name, ids in (("some", IDS), ("whole", LONGER)):
        tokens, flags = torch.tensor([ids]), keeps(graphs[name], len(ids))
        assert stored[f"evaluation/{name}/tokens"].tolist() == [list(ids)]
        others = stored[f"calibration/{name}/tokens"]
        assert {tuple(sorted(row)) for row in others.tolist()} == {tuple(sorted(ids))}
        assert others[:, 0].unique().tolist() == [tiny.BOS]
        assert list(ids) not in others.tolist()
        mean = means(world, others)
        for rung, keep in (("raw", flags), ("raw@0", none_of(flags))):
            expected = kl(world, tokens, world.kept(tokens, keep, mean))
            assert kls[name, rung, 0] == pytest.approx(expected, abs=1e-5), (name, rung)
    assert kls["whole", "raw", 0] < 1e-6 < 0.1 < kls["some", "raw", 0]
    assert kls["whole", "raw@~headline", 0] == pytest.approx(kls["whole", "raw@0", 0], abs=1e-6)
    cost = record.circuit_sizes["headline"]
    flags = {
        name: keeps(graph, len(ids)) for (name, graph), ids in zip(graphs.items(), (IDS, LONGER), strict=True)
    }
    kept = sum(int(part.sum()) for one in flags.values() for parts in one.values() for part in parts)
    assert cost.nodes == kept
    assert record.complexity.features == tiny.LAYERS * (len(IDS) + len(LONGER)) * (LATENTS + 1)
    for other in (["show", "saved"], ["verify", "results"]):
        outcome = remainder(*other)
        assert outcome.code == 0, outcome.out + outcome.err
    again = remainder(*command.split(), "--pairs", "1", *CPU)
    assert "found finished" in again.err


def zeros(flags: dict[int, Parts]) -> dict[int, Parts]:
    """Nothing in place of each node."""
    width = torch.zeros(len(IDS), tiny.WIDTH)
    return {
        block: (torch.zeros_like(latents, dtype=torch.float32), width)
        for block, (latents, _) in flags.items()
    }


def spared(flags: dict[int, Parts]) -> dict[int, Parts]:
    """The flags, with all nodes of the first token."""
    for latents, errors in flags.values():
        latents[0], errors[0] = True, True
    return flags


def test_a_graph_that_circuit_tracer_wrote_is_scored(world: World, remainder: Command) -> None:
    """Version 0.5.0, of this model and set, in an environment of its own; pruned at 0.8."""
    graph = Path(shutil.copyfile(FIELD, "field.json"))
    arguments = ("--graph", graph, "--transcoders", world.folder / "set", "--rungs", "raw,zero", *CPU)
    found = remainder("run", *arguments)
    assert found.code == 0, found.err
    (path,) = Path("results").glob("adhoc/*/1/field/*.json")
    record, values = read_record(path)
    tokens, flags = torch.tensor([IDS]), spared(keeps(graph, len(IDS)))
    expected = kl(world, tokens, world.kept(tokens, flags, zeros(flags)))
    assert values.set_index("rung")["kl"]["zero"] == pytest.approx(expected, abs=1e-5)
    assert expected > 0.1
    said = " ".join(record.warnings)
    assert "'0_0_2', '0_0_4': each the id of a feature and of an error" in said
    off = re.search(r"the activations of its 13 features are off by (\S+) of their size", said)
    assert off is not None
    assert float(off[1]) < 1e-5


def test_what_circuit_tracer_leaves_out_is_0_and_the_first_token_stays(
    world: World, remainder: Command
) -> None:
    """All that is active, and half of it, with everything else at 0 but at the first token."""
    graphs = {"all": world.graph("all", 1.1, active=True), "half": world.graph("half", 0.5, active=True)}
    arguments = [part for path in graphs.values() for part in ("--graph", path)]
    found = remainder("run", *arguments, "--transcoders", world.folder / "set", "--rungs", "raw,zero", *CPU)
    assert found.code == 0, found.err
    (path,) = Path("results").glob("adhoc/*/1/2-graphs/*.json")
    kls = read_record(path).values.set_index(["document", "rung"])["kl"]
    tokens = torch.tensor([IDS])
    for name, graph in graphs.items():
        flags = spared(keeps(graph, len(IDS)))
        expected = kl(world, tokens, world.kept(tokens, flags, zeros(flags)))
        assert kls[name, "zero"] == pytest.approx(expected, abs=1e-5)
    assert kls["all", "zero"] < 1e-6 < 0.1 < kls["half", "zero"]
    assert kls["all", "raw"] > 0.001  # latents that are off carry a mean that is not


def test_the_lines_of_the_page_do_the_same(
    world: World, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("graphs").mkdir()
    graph = world.graph("some", 0.5).rename(place / "graphs" / "some.json")
    Path("set").symlink_to(world.folder / "set")
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (code,) = (block for block in blocks if "prepare_graphs" in block)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/feature-circuits.md", "exec"), names)
    stored = load_file(names["made"].task.circuit.folder / "prompts.safetensors")
    mean, tokens = means(world, stored["calibration/some/tokens"]), torch.tensor([IDS])
    expected = kl(world, tokens, world.kept(tokens, keeps(graph, len(IDS)), mean))
    assert float(capsys.readouterr().out) == pytest.approx(expected, abs=1e-5)


def test_the_page_states_what_holds() -> None:
    """Its words on versions, on orders, and on documents that an interval takes."""
    requirements = (project_root() / "pyproject.toml").read_text(encoding="utf-8")
    page = " ".join(PAGE.split())
    assert '"transformers>=5.9"' in requirements
    assert "this package for 5.9 or later" in page
    assert f"up to {ORDERS} other orders" in page
    assert MINIMUM_DOCUMENTS == 4
    assert "intervals, and with them f and completeness, take four" in page
    assert _AWAY == 1 / 4
    options = {option for line in re.findall(r"^\| `(--[\w-]+)`", PAGE, re.MULTILINE) for option in [line]}
    parameters = get_command(app).commands["run"].params  # type: ignore[attr-defined]
    assert len(options) == 5
    assert options <= {name for parameter in parameters for name in parameter.opts}


def test_other_prompts_and_a_share_of_nodes(world: World, place: Path, remainder: Command) -> None:
    graph = world.graph("some", 0.5)
    Path("prompts.txt").write_text("w3 w4 w5 w6 w7\n\nw8 w9 w10 w11 w12\nw3 w4\nw40 w41 w42 w43 w44\n")
    arguments = ["--graph", graph, "--transcoders", world.folder / "set", "--prompts", "prompts.txt", *CPU]
    rungs = ["--rungs", "raw,counterfactual", "--json", "one.json"]
    found = remainder("run", *arguments, "--nodes", "0.6", *rungs)
    assert found.code == 0, found.err
    assert "3 of 4 given prompts, as long as that of some" in " ".join(found.err.split())
    record, values = read_record(Path("one.json"))
    assert record.submission.name == "some-0.6"
    assert record.measurement.unmeasured["counterfactual"] == "the prompts have no counterfactuals"
    assert record.calibration.documents == 3
    tokens = torch.tensor([IDS])
    others = torch.tensor([[tiny.BOS, *row] for row in (range(3, 8), range(8, 13), range(40, 45))])
    content = json.loads(graph.read_text())
    # All nodes have a link to the one logit, so a share takes the most influential and nothing else.
    last = min(node["influence"] for node in content["nodes"][:-2] if node["influence"] >= 0.6)
    less = [node for node in content["nodes"][:-2] if node["influence"] <= last]
    (place / "less.json").write_text(json.dumps({**content, "nodes": less}))
    flags = keeps(place / "less.json", len(IDS))
    # Features need a link into them as well, and these have none.
    flags = {block: (torch.zeros_like(part[0]), part[1]) for block, part in flags.items()}
    expected = kl(world, tokens, world.kept(tokens, flags, means(world, others)))
    found_kl = values.set_index("rung")["kl"]["raw"]
    assert found_kl == pytest.approx(expected, abs=1e-5)


def test_a_set_of_a_hub_that_lists_gemma_scope(
    tmp_path: Path, remainder: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = ScopeWorld(tmp_path)
    graph = world.graph("scope", 0.5)
    with connected(tmp_path / "hub-cache", monkeypatch) as hub:
        hub.add("somebody/tiny-transcoders", tmp_path / "set" / "list")
        hub.add(WEIGHTS, tmp_path / "set" / "weights")
        arguments = ("--graph", graph, "--transcoders", "somebody/tiny-transcoders", "--rungs", "raw", *CPU)
        found = remainder("run", *arguments, "--save-task", "saved")
        assert found.code == 0, found.err
        assert len(hub.downloads()) == 1 + tiny.LAYERS  # the list, and what it names
    (path,) = Path("results").glob("adhoc/*/1/scope/*.json")
    stored = load_file("saved/prompts.safetensors")
    mean = means(world, stored["calibration/scope/tokens"])
    tokens = torch.tensor([IDS])
    expected = kl(world, tokens, world.kept(tokens, keeps(graph, len(IDS)), mean))
    values = read_record(path).values.set_index("rung")["kl"]
    assert values["raw"] == pytest.approx(expected, abs=1e-5)
    assert expected > 0.01


def edited(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a graph beside the test, changed."""
    content = json.loads(path.read_text())
    change(content)
    copy = Path(path.name)
    copy.write_text(json.dumps(content))
    return copy


def without_metadata(graph: dict[str, Any]) -> None:
    del graph["metadata"]


def other_token(graph: dict[str, Any]) -> None:
    graph["metadata"]["prompt_tokens"][2] = " Paris"


def other_depth(graph: dict[str, Any]) -> None:
    graph["nodes"][-1] |= {"layer": "13", "node_id": "13_5_5"}


def custom_target(graph: dict[str, Any]) -> None:
    for node in graph["nodes"][-2:]:
        was = node["node_id"]
        node |= {"node_id": f"{tiny.LAYERS + 1}_{node['feature'] + 900}_5", "feature": node["feature"] + 900}
        for link in graph["links"]:
            link["target"] = node["node_id"] if link["target"] == was else link["target"]


def other_scan(graph: dict[str, Any]) -> None:
    graph["metadata"]["scan"] = "somebody/other-transcoders"


def no_token_nodes(graph: dict[str, Any]) -> None:
    gone = [node["node_id"] for node in graph["nodes"] if node["layer"] == "E"]
    graph["nodes"] = [node for node in graph["nodes"] if node["node_id"] not in gone]
    graph["links"] = [link for link in graph["links"] if link["source"] not in gone]


def no_nodes_and_other_prompt(graph: dict[str, Any]) -> None:
    no_token_nodes(graph)
    graph["metadata"]["prompt"] = "w5 w9"


GRAPHS = {
    "no metadata": (without_metadata, "some.json: it has no metadata, which say of which prompt"),
    "other token": (other_token, "some is of another model than model: token 2 of its prompt is ' Paris'"),
    "other depth": (other_depth, "is in layer 13, a logit; of the task's model, of 4 blocks"),
    "custom target": (custom_target, "is no token of model"),
    "other scan": (other_scan, "was made with the transcoders somebody/other-transcoders"),
    "other prompt": (no_nodes_and_other_prompt, "has 2 tokens here; metadata.prompt_tokens has 6"),
}


def refused(found: Outcome, message: str) -> None:
    assert found.code != 0
    assert message in " ".join(found.err.split()), found.err
    assert "To mend it" in found.err
    assert not list(Path("results").rglob("*.json"))


@pytest.mark.parametrize("case", GRAPHS)
def test_a_graph_that_is_not_sound_or_of_another_model_is_refused(
    world: World, remainder: Command, case: str
) -> None:
    change, message = GRAPHS[case]
    graph = edited(world.graph("some", 0.5), change)
    refused(remainder("run", "--graph", graph, "--transcoders", world.folder / "set", *CPU), message)


def test_tokens_may_be_those_of_the_tokenizer(world: World) -> None:
    graph = edited(world.graph("some", 0.5), no_token_nodes)
    made = prepare_graphs([graph], world.folder / "set", save_task="saved")
    assert made.task.hash == load_task("saved").hash
    assert load_file("saved/prompts.safetensors")["evaluation/some/tokens"].tolist() == [list(IDS)]


def other_set(world: World, **config: Any) -> Path:
    return world.write_set(Path("other"), **config)


def lacking(world: World) -> Path:
    return world.write_set(Path("other"), range(3))


def listed_and_gone(world: World) -> Path:
    files = [f"layer_{block}.safetensors" for block in range(tiny.LAYERS)]
    path = world.write_set(Path("other"), listed=files)
    (path / files[2]).unlink()
    return path


def cross_layer(world: World) -> Path:
    return other_set(world, model_kind="cross_layer_transcoder")


def cross_layer_files(world: World) -> Path:
    Path("other").mkdir()
    for block in range(tiny.LAYERS):
        save_file({f"W_dec_{block}": torch.zeros(3, 2, 4)}, Path("other") / f"W_dec_{block}.safetensors")
    return Path("other")


def no_model(world: World) -> Path:
    return other_set(world, model_name=None)


def model_elsewhere(world: World) -> Path:
    return other_set(world, model_name="nobody/no-such-model")


def other_weights(world: World) -> Path:
    path = world.write_set(Path("other"))
    weights = load_file(path / "layer_1.safetensors")
    for block in range(tiny.LAYERS):
        save_file(
            {name: value.flip(0) for name, value in weights.items()}, path / f"layer_{block}.safetensors"
        )
    return path


def fewer_features(world: World) -> Path:
    path = world.write_set(Path("other"))
    for file in path.glob("*.safetensors"):
        weights = load_file(file)
        short = {name: value[:3].clone() for name, value in weights.items() if value.shape[0] == LATENTS}
        save_file({**weights, **short}, file)
    return path


def other_width(world: World) -> Path:
    path = world.write_set(Path("other"))
    for file in path.glob("*.safetensors"):
        weights = load_file(file)
        weights["W_enc"] = weights["W_enc"][:, :-2].clone()
        save_file(weights, file)
    return path


SETS: dict[str, tuple[Callable[[World], Path], str]] = {
    "a block is missing": (lacking, "other has no transcoder of block 3; it has those of 0, 1, 2"),
    "a file is missing": (listed_and_gone, "there is no file layer_2.safetensors of block 2"),
    "cross-layer": (cross_layer, "a latent of a cross-layer transcoder writes into all later blocks"),
    "cross-layer, unlisted": (cross_layer_files, "other is a cross-layer transcoder"),
    "nothing there": (lambda world: Path("nowhere"), "there is no folder nowhere of transcoders"),
    "no list": (lambda world: world.folder / "model", "model has no config.yaml"),
    "model elsewhere": (model_elsewhere, "other says that it is of this model"),
    "no model": (no_model, "other does not say which model it is of"),
    "other weights": (other_weights, "features have activations that are off by over"),
    "fewer features": (fewer_features, "its transcoder has 3"),
    "other width": (other_width, "the site has width d_model = 16"),
}


@pytest.mark.parametrize("case", SETS)
def test_a_set_that_does_not_fit_is_refused(world: World, remainder: Command, case: str) -> None:
    make, message = SETS[case]
    graph = world.graph("some", 0.5)
    refused(remainder("run", "--graph", graph, "--transcoders", make(world), *CPU), message)


ARGUMENTS: dict[str, tuple[list[str], str]] = {
    "no transcoders": (["--graph", "some.json"], "without their transcoders they say nothing"),
    "no graph": (["--transcoders", "set"], "--transcoders is of a graph, and there is none"),
    "a task beside": (
        ["tiny/wiki", "--graph", "some.json", "--transcoders", "set"],
        "tiny/wiki is named beside",
    ),
    "twice": (["--graph", "some.json", "--graph", "./some.json", "--transcoders", "set"], "is named twice"),
    "no file": (["--graph", "gone.json", "--transcoders", "set"], "gone.json"),
    "no graphs": (["--graph", "set", "--transcoders", "set"], "set holds no graph of circuit-tracer"),
    "no share": (["--graph", "some.json", "--transcoders", "set", "--nodes", "1.5"], "nodes is '1.5'"),
    "nothing pinned": (
        ["--graph", "some.json", "--transcoders", "set", "--nodes", "pinned"],
        "the graph pins no node",
    ),
    "too few prompts": (
        ["--graph", "some.json", "--transcoders", "set", "--prompts", "few.txt"],
        "1 of the given prompts have as many (they have 3, 6)",
    ),
    "its own prompt": (
        ["--graph", "some.json", "--transcoders", "set", "--prompts", "own.txt"],
        "prompt 2 of those given is that of graph some itself",
    ),
    "too many documents": (
        ["--graph", "some.json", "--transcoders", "set", "--documents", "5"],
        "leave it out; without a number all are measured",
    ),
    "no such model": (
        ["--graph", "some.json", "--transcoders", "set", "--model", "set"],
        "set holds no config.json of transformers",
    ),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments_that_do_not_go_together_are_refused(world: World, remainder: Command, case: str) -> None:
    arguments, message = ARGUMENTS[case]
    shutil.copyfile(world.graph("some", 0.5), "some.json")
    Path("set").symlink_to(world.folder / "set")
    Path("few.txt").write_text("w3 w4\nw8 w9 w10 w11 w12\n")
    Path("own.txt").write_text("w8 w9 w10 w11 w12\n" + " ".join(f"w{word}" for word in IDS[1:]))
    refused(remainder("run", *arguments, *CPU), message)


def test_the_name_of_a_file_decides_nothing(world: World) -> None:
    drawn = []
    for name in ("some", "other"):
        graph = world.graph(name, 0.5)
        prepare_graphs(graph, world.folder / "set", save_task=name)
        drawn.append(load_file(f"{name}/prompts.safetensors")[f"calibration/{name}/tokens"])
    assert len(drawn[0]) == ORDERS
    assert torch.equal(*drawn)


def test_words_without_another_order_need_other_prompts(world: World, remainder: Command) -> None:
    graph = world.graph("same", 0.5, ids=(tiny.BOS, 5, 5, 5))
    found = remainder("run", "--graph", graph, "--transcoders", world.folder / "set", *CPU)
    refused(found, "the words of graph same have 0 other orders")
