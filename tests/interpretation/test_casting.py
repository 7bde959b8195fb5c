"""An object of a notebook is treated as its folder is: float32 on a copy, its settings as what they are."""

from __future__ import annotations

import collections
import copy
import dataclasses
import functools
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydantic
import pytest
import torch
from format_files import LATENTS, MASK, MLP, SITE, WIDTH, K, X, built, make_sae, random_weights, task_at
from torch import Tensor, nn

from remainder.errors import InterpretationError
from remainder.interpretation.casting import in_float32, on_device
from remainder.interpretation.protocol import Adapted
from remainder.submission.objects import object_submission

HERE = {"hook_name": SITE.hook_in}
HEADS = "blocks.1.attn.hook_z"
THERE = {"hook_name": MLP.hook_in, "hook_name_out": MLP.hook_out}
OF_TRANSCODERS = {"d_out": WIDTH, "apply_b_dec_to_input": False}
KINDS: dict[str, dict[str, Any]] = {
    "StandardSAE": {},
    "GatedSAE": {},
    "TopKSAE": {"k": K},
    "AbsTopKSAE": {"k": K},
    "JumpReLUSAE": {},
    "MatchingPursuitSAE": {"max_iterations": 3},
    "TemporalSAE": {"n_heads": 2, "bottleneck_factor": 2, "kval_topk": K},
    **dict.fromkeys(
        ("Transcoder", "SkipTranscoder", "JumpReLUTranscoder", "JumpReLUSkipTranscoder"), OF_TRANSCODERS
    ),
}
DTYPES = (torch.float16, torch.bfloat16, torch.float64)
W = {name: value for name, value in random_weights().items() if name != "W_skip"}


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-5)


def checked(thing: Any, **changed: Any) -> Adapted:
    return object_submission(thing, "mine").build(task_at(**changed))


def rebuilt(thing: Any) -> Tensor:
    found: Tensor = checked(thing).reconstruct(X, MASK)[1]
    return found


def expected_of(dtype: torch.dtype = torch.float32) -> Tensor:
    """x̂ of a plain ReLU SAE with the weights `W` rounded to `dtype`."""
    w = {name: value.to(dtype).float() for name, value in W.items()}
    return torch.relu((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"]) @ w["W_dec"] + w["b_dec"]


class Plain:
    """Methods of a ReLU SAE; what holds the weights is the subclass's business."""

    W_enc: Tensor
    W_dec: Tensor
    b_enc: Tensor
    b_dec: Tensor

    def encode(self, x: Tensor) -> Tensor:
        return torch.relu((x - self.b_dec) @ self.W_enc + self.b_enc)

    def decode(self, codes: Tensor) -> Tensor:
        return codes @ self.W_dec + self.b_dec


# ------------------------------------------------------------------------------------- sae-lens


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalised", ["none", "layer_norm", "constant_norm_rescale"])
def test_an_object_of_sae_lens_is_rebuilt_as_its_folder_is(
    tmp_path: Path, kind: str, normalised: str, dtype: torch.dtype
) -> None:
    if kind == "TemporalSAE" and normalised != "none":
        normalised = "constant_scalar_rescale"
    hooks = THERE if "Transcoder" in kind else HERE
    sae = make_sae(kind, metadata=hooks, normalize_activations=normalised, **KINDS[kind]).to(dtype)
    if normalised == "constant_scalar_rescale":
        sae.cfg.activation_normalization_factor = 0.3
    task = task_at(MLP if "Transcoder" in kind else SITE)
    before, attributes = state_of(sae), set(vars(sae))
    adapted = object_submission(sae).build(task)
    found = adapted.reconstruct(X, MASK)
    sae.save_model(str(tmp_path))
    again = built(tmp_path, task.site).reconstruct(X, MASK)
    same(found[0], again[0])
    same(found[1], again[1])
    assert not adapted.warnings
    unchanged(sae, before)
    assert set(vars(sae)) == attributes


def state_of(sae: Any) -> tuple[dict[str, Tensor], Any, Any, Any]:
    state = {name: value.clone() for name, value in sae.state_dict().items()}
    return state, copy.deepcopy(sae.cfg.to_dict()), sae.dtype, sae.hook_z_reshaping_mode


def unchanged(sae: Any, before: tuple[dict[str, Tensor], Any, Any, Any]) -> None:
    after = state_of(sae)
    assert after[1:] == before[1:]
    for name, value in before[0].items():
        assert after[0][name].dtype == value.dtype
        assert torch.equal(after[0][name], value), name


def test_the_heads_of_an_attention_sae_in_half_precision(tmp_path: Path) -> None:
    sae = make_sae("StandardSAE", metadata={"hook_name": HEADS}, reshape_activations="hook_z")
    sae = sae.to(torch.bfloat16)
    site = SITE.model_copy(update={"hook_in": HEADS, "hook_out": HEADS})
    before = state_of(sae)
    found = object_submission(sae).build(task_at(site)).reconstruct(X, MASK)[1]
    unchanged(sae, before)
    assert sae.hook_z_reshaping_mode
    assert sae.d_head is None if hasattr(sae, "d_head") else True
    sae.save_model(str(tmp_path))
    same(found, built(tmp_path, site).reconstruct(X, MASK)[1])


@pytest.mark.parametrize("how", ["half", "bfloat16", "double"])
def test_a_module_cast_behind_the_notes_of_sae_lens(how: str) -> None:
    """`sae.half()` changes the weights, and not what sae-lens notes of their type."""
    sae = make_sae("TopKSAE", metadata=HERE, k=K)
    getattr(sae, how)()
    dtype = sae.W_enc.dtype
    assert sae.dtype == torch.float32
    weights = {name: value.float() for name, value in sae.state_dict().items()}
    rounded = make_sae("TopKSAE", metadata=HERE, k=K)
    rounded.load_state_dict(weights)
    same(rebuilt(sae), rounded(X))
    assert sae.W_enc.dtype == dtype


def test_gradients_stay_what_they_were() -> None:
    sae = make_sae("StandardSAE", metadata=HERE).to(torch.bfloat16).requires_grad_(True)
    sae.W_dec.requires_grad_(False)
    adapted = checked(sae)
    copied = adapted.inner
    assert {name for name, value in copied.named_parameters() if value.requires_grad} == {
        "W_enc",
        "b_enc",
        "b_dec",
    }
    x = X.clone().requires_grad_()
    adapted.decode(adapted.encode(x)).sum().backward()
    assert x.grad is not None
    assert sae.W_enc.grad is None


def test_a_float32_object_is_used_as_it_is() -> None:
    sae = make_sae("StandardSAE", metadata=HERE)
    assert checked(sae).inner is sae


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of torch, when it compiles
def test_a_compiled_module_is_the_one_that_was_compiled() -> None:
    sae = make_sae("SkipTranscoder", metadata=THERE, **OF_TRANSCODERS)
    for dtype in (torch.float32, torch.bfloat16):
        sae = sae.to(dtype)
        adapted = checked(torch.compile(sae), site=MLP)
        same(adapted.reconstruct(X, MASK)[1], copy.deepcopy(sae).to(torch.float32)(X))
        assert adapted.skip(X) is not None  # it is known to be a skip-transcoder still
    assert sae.W_enc.dtype == torch.bfloat16


def test_numbers_of_numpy_in_the_config_of_sae_lens() -> None:
    sae = make_sae("TopKSAE", metadata=HERE, k=K)
    sae.cfg.k, sae.cfg.d_in, sae.cfg.d_sae = np.int64(K), np.int32(WIDTH), torch.tensor(LATENTS)
    same(rebuilt(sae), sae(X))
    sae.cfg.k = np.int64(0)
    with pytest.raises(InterpretationError, match="k is 0; expected a whole number"):
        checked(sae)


# ------------------------------------------------------------------------------------- other objects


class Module(Plain, nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        for name in ("W_enc", "W_dec"):
            setattr(self, name, nn.Parameter(W[name].to(dtype)))
        self.register_buffer("b_enc", W["b_enc"].to(dtype))
        self.b_dec = W["b_dec"].to(dtype)  # neither of the two: `.to` would leave it as it is


class TypeAware(Module):
    """Looks at its own type, as sae-lens does."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__(dtype)
        self.dtype = dtype
        self.cfg = types.SimpleNamespace(dtype=str(dtype).removeprefix("torch."), d_in=WIDTH, **HERE)

    def encode(self, x: Tensor) -> Tensor:
        return super().encode(x.to(self.dtype).to(getattr(torch, self.cfg.dtype)))


@dataclasses.dataclass(frozen=True)
class Frozen(Plain):
    W_enc: Tensor
    W_dec: Tensor
    b_enc: Tensor
    b_dec: Tensor


class Slots(Plain):
    __slots__ = ("W_dec", "W_enc", "b_dec", "b_enc")


class Weights(NamedTuple):
    W_enc: Tensor
    W_dec: Tensor
    b_enc: Tensor
    b_dec: Tensor


class Nested:
    """Weights in a list, in a dict, in an object."""

    def __init__(self, dtype: torch.dtype) -> None:
        cast = {name: value.to(dtype) for name, value in W.items()}
        self.parts = {
            "in": [cast["W_enc"], (cast["b_enc"],)],
            "out": types.SimpleNamespace(matrix=cast["W_dec"]),
        }
        self.shared = collections.deque([cast["b_dec"], cast["b_dec"]])

    def encode(self, x: Tensor) -> Tensor:
        matrix, (bias,) = self.parts["in"]
        assert self.shared[0] is self.shared[1]
        return torch.relu((x - self.shared[0]) @ matrix + bias)

    def decode(self, codes: Tensor) -> Tensor:
        return codes @ self.parts["out"].matrix + self.shared[1]


def cast_weights(dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: value.to(dtype) for name, value in W.items()}


def with_slots(dtype: torch.dtype) -> Any:
    made = Slots()
    for name, value in cast_weights(dtype).items():
        setattr(made, name, value)
    return made


def of_bound_methods(dtype: torch.dtype) -> Any:
    inner = Module(dtype)
    return types.SimpleNamespace(encode=inner.encode, decode=inner.decode)


def of_partials(dtype: torch.dtype) -> Any:
    def encode(w: Any, x: Tensor) -> Tensor:
        return torch.relu((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])

    def decode(codes: Tensor, *, w: Any) -> Tensor:
        return codes @ w["W_dec"] + w["b_dec"]

    w = cast_weights(dtype)
    return types.SimpleNamespace(encode=functools.partial(encode, w), decode=functools.partial(decode, w=w))


def with_gradients(dtype: torch.dtype) -> Any:
    """Its decoder is computed from a parameter, so that copy.deepcopy alone refuses it."""
    made = Module(dtype)
    made.scale = nn.Parameter(torch.ones((), dtype=dtype))
    weight = made.W_dec * made.scale
    del made.W_dec
    made.W_dec = weight
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(made)
    return made


OBJECTS: dict[str, Callable[[torch.dtype], Any]] = {
    "a module with a plain tensor": Module,
    "a module that looks at its type": TypeAware,
    "a frozen dataclass": lambda dtype: Frozen(**cast_weights(dtype)),
    "slots": with_slots,
    "lists and dicts": Nested,
    "bound methods": of_bound_methods,
    "partial functions": of_partials,
    "a tensor with a gradient": with_gradients,
    "an object in an object": lambda dtype: copy.copy(Held(Module(dtype))),
}


class Held:
    """Passes all on to another, as wrappers do."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def encode(self, x: Tensor) -> Tensor:
        codes: Tensor = self.inner.encode(x)
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        x: Tensor = self.inner.decode(codes)
        return x


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", OBJECTS)
def test_any_object_is_cast_on_a_copy(name: str, dtype: torch.dtype) -> None:
    thing = OBJECTS[name](dtype)
    before = object_submission(thing, "mine").hash
    adapted = checked(thing)
    same(adapted.reconstruct(X, MASK)[1], expected_of(dtype))
    assert not adapted.warnings
    assert object_submission(thing, "mine").hash == before  # bytes and types of all its tensors
    if dtype != torch.float64:
        assert adapted.inner is not thing


def test_what_is_float32_already_is_not_doubled() -> None:
    made = Module(torch.float32)
    made.b_dec = made.b_dec.to(torch.bfloat16)
    copied = checked(made).inner
    assert copied is not made
    assert copied.W_enc is made.W_enc
    assert copied.b_dec.dtype == torch.float32


def test_an_object_that_computes_in_float64_goes_on_so() -> None:
    class Double(Module):
        def encode(self, x: Tensor) -> Tensor:
            return super().encode(x.double())

        def decode(self, codes: Tensor) -> Tensor:
            return super().decode(codes.double())

    thing = Double(torch.float64)
    adapted = checked(thing)
    assert adapted.inner is thing
    same(adapted.reconstruct(X, MASK)[1], expected_of())
    assert not adapted.warnings


def test_an_object_of_float64_that_wants_other_windows_is_left_alone() -> None:
    """Nothing can be told from a few tokens then, and in float64 nothing is lost."""

    class FixedWindow(Module):
        def encode(self, x: Tensor) -> Tensor:
            assert x.shape[1] == 5
            return super().encode(x.double())

        def decode(self, codes: Tensor) -> Tensor:
            return super().decode(codes.double())

    thing = FixedWindow(torch.float64)
    assert checked(thing).inner is thing
    same(rebuilt(thing), expected_of())


def test_an_object_whose_own_code_asks_for_its_type_is_left_and_told() -> None:
    class Insists(Module):
        def encode(self, x: Tensor) -> Tensor:
            return super().encode(x.to(torch.bfloat16))

        def decode(self, codes: Tensor) -> Tensor:
            return super().decode(codes.to(torch.bfloat16))

    thing = Insists(torch.bfloat16)
    adapted = checked(thing)
    assert adapted.inner is thing
    assert adapted.warnings == (
        "mine computes in bfloat16 by its own code, and could not be cast to float32.",
    )
    assert adapted.placed(torch.device("cpu")).reconstruct(X, MASK)[1].isfinite().all()


def of_closures(dtype: torch.dtype, *, insists: bool) -> Any:
    w = cast_weights(dtype)

    def given(x: Tensor) -> Tensor:
        return x.to(dtype) if insists else x

    return types.SimpleNamespace(
        encode=lambda x: torch.relu((given(x) - w["b_dec"]) @ w["W_enc"] + w["b_enc"]),
        decode=lambda codes: given(codes) @ w["W_dec"] + w["b_dec"],
    )


def test_tensors_that_only_a_function_keeps_cannot_be_cast() -> None:
    with pytest.raises(
        InterpretationError, match=r"mine: the function at (en|de)code keeps a tensor .*bfloat16"
    ) as raised:
        checked(of_closures(torch.bfloat16, insists=False))
    assert "sae.to(torch.float32)" in (raised.value.fix or "")
    told = checked(of_closures(torch.bfloat16, insists=True))
    assert "computes in bfloat16 by its own code" in told.warnings[0]
    same(rebuilt(of_closures(torch.float32, insists=False)), expected_of())


def test_a_function_that_keeps_the_object_itself_cannot_be_cast_in_silence() -> None:
    """The copy's own `encode` would go on with the weights of the object that it was made from."""
    thing = Module(torch.bfloat16)
    thing.encode = lambda x: Plain.encode(thing, x.to(thing.W_enc.dtype)).float()
    with pytest.raises(InterpretationError, match="mine: the function at encode keeps a tensor to itself"):
        checked(thing)
    sae = make_sae("StandardSAE", metadata=HERE).to(torch.bfloat16)
    sae.encode = lambda x: type(sae).encode(sae, x)
    with pytest.raises(InterpretationError, match="mine: the function at encode keeps a tensor to itself"):
        checked(sae)


def test_what_cannot_be_copied_says_how_to_cast_it() -> None:
    thing = Module(torch.bfloat16)
    thing.lock = threading.Lock()
    with pytest.raises(
        InterpretationError, match=r"mine: a Module cannot be copied, to be cast to float32: Type"
    ) as raised:
        checked(thing)
    assert raised.value.fix == "give it in float32: sae.to(torch.float32), or its tensors by tensor.float()"


def test_tensors_of_a_class_say_how_to_cast_them() -> None:
    """No copy of an object has other attributes of its class."""
    made = type("Mine", (Plain,), cast_weights(torch.bfloat16))()
    with pytest.raises(InterpretationError, match=r"mine: (en|de)code failed") as raised:
        checked(made).reconstruct(X, MASK)
    assert "give it in float32 too: sae.to(torch.float32)" in (raised.value.fix or "")


def quantised(value: Tensor) -> Tensor:
    return torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)


ODD: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "qint8": (quantised, r"W_dec is quantised \(qint8\)"),
    "float8": (lambda value: value.to(torch.float8_e4m3fn), "W_dec is stored as float8_e4m3fn"),
    "sparse": (lambda value: value.to_sparse(), "W_dec is a sparse tensor"),
    "meta": (lambda value: value.to("meta"), r"W_dec is a tensor without values \(on the device meta\)"),
    "int8": (lambda value: (10 * value).to(torch.int8), "W_dec is stored as int8; expected a plain array of"),
    "uint8": (lambda value: value.to(torch.uint8), "W_dec is stored as uint8; expected a plain array of fl"),
}


@pytest.mark.filterwarnings("ignore:.*quantize:UserWarning", "ignore:.*quantize:DeprecationWarning")
@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_weights_that_are_no_plain_numbers_are_refused(name: str, dtype: torch.dtype) -> None:
    change, message = ODD[name]
    weights = {**cast_weights(dtype), "W_dec": change(W["W_dec"])}
    with pytest.raises(InterpretationError, match=f"mine: {message}") as raised:
        checked(Frozen(**weights))
    assert "with its scale worked in" in (raised.value.fix or "")


def test_a_lazy_module_is_refused() -> None:
    thing = Module(torch.float32)
    thing.later = nn.LazyLinear(3)
    with pytest.raises(InterpretationError, match=r"mine: later\.(weight|bias) is a tensor without values"):
        checked(thing)


def test_a_quantised_object_that_works_out_its_weights_itself_is_taken() -> None:
    class Eight(Module):
        def __init__(self, dtype: torch.dtype) -> None:
            super().__init__(dtype)
            del self.W_dec
            self.scale = W["W_dec"].abs().max().to(dtype) / 127
            self.W_dec = nn.Parameter((W["W_dec"] / self.scale).round().to(torch.int8), requires_grad=False)

        def decode(self, codes: Tensor) -> Tensor:
            return codes @ (self.W_dec.to(codes.dtype) * self.scale) + self.b_dec

    for dtype in (torch.float32, torch.bfloat16):
        torch.testing.assert_close(rebuilt(Eight(dtype)), expected_of(dtype), rtol=0.05, atol=0.5)


def test_counters_are_left_as_they_are() -> None:
    thing = Module(torch.bfloat16)
    thing.register_buffer("steps", torch.tensor(5))
    thing.register_buffer("alive", torch.ones(LATENTS).bool())
    copied = checked(thing).inner
    assert copied.steps.dtype == torch.int64
    assert copied.alive.dtype == torch.bool


# ------------------------------------------------------------------------------------- devices


def test_an_object_elsewhere_is_moved_on_a_copy() -> None:
    """The device meta stands for a GPU: what is moved there keeps no values, and its place can be seen."""
    there = torch.device("meta")
    made = Nested(torch.float32)
    made.device = torch.device("cpu")
    moved = on_device(made, "mine", WIDTH, there)
    assert moved.parts["out"].matrix.device.type == "meta"
    assert moved.shared[0] is moved.shared[1]
    assert moved.device == there
    assert made.parts["out"].matrix.device.type == "cpu"
    assert on_device(made, "mine", WIDTH, torch.device("cpu")) is made
    sae = make_sae("TopKSAE", metadata=HERE, k=K)
    placed = checked(sae).placed(there)
    assert {value.device.type for value in placed.inner.state_dict().values()} == {"meta"}
    assert placed.inner.cfg.device == "meta"
    assert (sae.cfg.device, sae.W_enc.device.type) == ("cpu", "cpu")


# ------------------------------------------------------------------------------------- settings

SETTINGS = {"d_in": WIDTH, "d_sae": LATENTS, "hook_layer": 1, "hook_name": SITE.hook_in}


class Pydantic(pydantic.BaseModel):
    d_in: int = WIDTH
    hook_name: str = SITE.hook_in


class OfClass:
    d_in = WIDTH
    hook_name = SITE.hook_in


class WithProperty:
    hook_name = SITE.hook_in

    @property
    def d_in(self) -> int:
        return WIDTH


class SlotsConfig:
    __slots__ = ("d_in", "hook_name")

    def __init__(self, **fields: Any) -> None:
        for name, value in fields.items():
            setattr(self, name, value)


class TupleConfig(NamedTuple):
    d_in: int = WIDTH
    hook_name: str = SITE.hook_in


@dataclasses.dataclass
class DataConfig:
    d_in: int = WIDTH
    hook_name: str = SITE.hook_in


class OmegaLike(Mapping[str, Any]):
    """A mapping that is no dict, and gives its parts as such mappings, as OmegaConf's do."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def __getitem__(self, name: str) -> Any:
        found = self._fields[name]
        return OmegaLike(found) if isinstance(found, dict) else found

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


class Word(str, Enum):  # noqa: UP042  (a StrEnum prints as its value, which is no trap)
    HOOK = SITE.hook_in


def configs(width: Any, hook: Any) -> dict[str, Any]:
    fields = {"d_in": width, "hook_name": hook}
    return {
        "dict": dict(fields),
        "nested dict": {"d_in": width, "metadata": {"hook_name": hook}},
        "nested object": types.SimpleNamespace(d_in=width, metadata=types.SimpleNamespace(hook_name=hook)),
        "dataclass": DataConfig(**fields),
        "namespace": types.SimpleNamespace(**fields),
        "pydantic": Pydantic.model_construct(**fields),
        "named tuple": TupleConfig(**fields),
        "slots": SlotsConfig(**fields),
        "mapping": OmegaLike(fields),
        "nested mapping": OmegaLike({"d_in": width, "metadata": {"hook_name": hook}}),
        "class": type("Config", (), fields),
        "object of a class": type("Config", (), fields)(),
        "to_dict": types.SimpleNamespace(to_dict=lambda: fields),
    }


NUMBERS: dict[str, Callable[[int], Any]] = {
    "int": int,
    "numpy.int64": np.int64,
    "numpy.int32": np.int32,
    "numpy.uint16": np.uint16,
    "numpy, no axes": np.array,
    "torch": torch.tensor,
    "torch.int32": lambda value: torch.tensor(value, dtype=torch.int32),
}


def with_config(config: Any) -> Any:
    made = Module(torch.float32)
    made.cfg = config
    return made


@pytest.mark.parametrize("kind", configs(0, ""))
@pytest.mark.parametrize("number", NUMBERS)
def test_settings_are_read_as_what_they_are(kind: str, number: str) -> None:
    same(rebuilt(with_config(configs(NUMBERS[number](WIDTH), SITE.hook_in)[kind])), expected_of())
    with pytest.raises(InterpretationError, match=r"mine: d_in is 9; the task's site .* has width 8"):
        checked(with_config(configs(NUMBERS[number](WIDTH + 1), SITE.hook_in)[kind]))
    with pytest.raises(InterpretationError, match=r"mine: it was trained at blocks\.3\.hook_resid_pre"):
        checked(with_config(configs(NUMBERS[number](WIDTH), "blocks.3.hook_resid_pre")[kind]))


def test_a_layer_of_numpy_is_a_layer() -> None:
    same(rebuilt(with_config({"d_in": WIDTH, "hook_layer": np.int64(0)})), expected_of())
    with pytest.raises(InterpretationError, match=r"it was trained at blocks\.4\.hook_resid_post"):
        checked(with_config({"d_in": WIDTH, "hook_layer": np.int64(4)}))


@pytest.mark.parametrize("config", [OfClass, OfClass(), WithProperty(), {**SETTINGS, "hook_name": Word.HOOK}])
def test_settings_of_a_class_or_a_property_are_read(config: Any) -> None:
    same(rebuilt(with_config(config)), expected_of())


@pytest.mark.parametrize("width", [np.float64(8), 8.5, "8", np.array([8]), torch.tensor([8]), np.bool_(True)])
def test_a_width_that_is_no_whole_number_is_refused(width: Any) -> None:
    with pytest.raises(InterpretationError, match="mine: d_in is "):
        checked(with_config({"d_in": width, "hook_name": SITE.hook_in}))


def test_settings_that_cannot_be_read_are_refused() -> None:
    class Broken:
        @property
        def d_in(self) -> int:
            raise OSError("the run is gone")

    with pytest.raises(
        InterpretationError, match="mine: its cfg, a Broken, cannot be read: OSError: the run is"
    ):
        checked(with_config(Broken()))


def test_no_settings_are_no_error() -> None:
    same(rebuilt(with_config(None)), expected_of())
    same(rebuilt(with_config({})), expected_of())


# ------------------------------------------------------------------------------------- hashes

HASHES = {
    "dataclass": "2d32758bdb6ab74ea00c24ea902e4e0f3e0f83a2522d7825e408a36fde4cf4f1",
    "half": "c75341f4dd4c5320ae46de8b5b9ab7e34f4015c16be4254eaa35c560677b5e7d",
    "double": "849a9b64a7061d36a36d904655c2df60c110b9e188da6ffb3c060c0659a098dc",
    "module": "28debd9325f88b0c5e21f0f826edf206980e053d8fc66fa07ec86e74a47effa3",
    "namespace": "2206873f5088fb4c301da9abb8dbaa8a395d6e5686bec0ca9a379e79966e882b",
}


def hashed() -> dict[str, Any]:
    names = ("W_enc", "W_dec", "b_enc", "b_dec")
    values = {name: torch.arange(9.0).reshape(3, 3) / 2 - place for place, name in enumerate(names)}
    module = nn.Linear(2, 2)
    with torch.no_grad():
        module.weight.fill_(0.5)
        module.bias.fill_(-1)
    return {
        "dataclass": Frozen(**values),
        "half": Frozen(**{name: value.bfloat16() for name, value in values.items()}),
        "double": Frozen(**{name: value.double() for name, value in values.items()}),
        "module": module,
        "namespace": types.SimpleNamespace(
            cfg={"d_in": np.int64(8), "k": 3}, parts=[values["W_enc"], (1, "a")]
        ),
    }


@pytest.mark.parametrize("name", hashed())
def test_the_hash_of_an_object_does_not_move(name: str) -> None:
    """Records of before name these."""
    assert object_submission(hashed()[name], "mine").hash == HASHES[name]


def test_a_cast_object_is_a_cast_of_nothing_else() -> None:
    """`in_float32` alone: nothing is copied where nothing is to be cast."""
    thing = Nested(torch.float32)
    assert in_float32(thing, "mine", WIDTH).thing is thing
