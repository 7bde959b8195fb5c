"""The run-time type checks of the tests: what `typechecks` compiles late and once still checks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import typechecks
from jaxtyping import Float, TypeCheckError, jaxtyped
from torch import Tensor
from typechecks import checked, checker

from remainder.circuit.backgrounds import _missing_factor
from remainder.record.json import sha256
from remainder.residual.moments import Moments

HARNESS = Path(__file__).resolve().parents[2] / "harness"


def test_the_package_is_checked() -> None:
    with pytest.raises(TypeCheckError, match="sha256"):
        sha256("text")  # type: ignore[arg-type]
    with pytest.raises(TypeCheckError, match="have"):
        _missing_factor(torch.zeros(2, 3, 4), torch.zeros(2, 3, 5))
    with pytest.raises(TypeCheckError, match="scatter"):  # a dataclass, whose sizes must agree
        Moments(1, torch.zeros(2), torch.zeros(3, 3))


@checked
def halved(x: Float[Tensor, "rows d"], *, twice: bool = False) -> Float[Tensor, "rows d"]:
    return x[:, ::2] if twice else x


@checked
def counted(upto: int) -> Iterator[int]:
    yield from range(upto)


@checked
@dataclass
class Sizes:
    """Its shapes are one frame: `d` is one number."""

    left: Float[Tensor, " d"]
    right: Float[Tensor, " d"]

    @checked
    def longer(self, than: int) -> bool:
        return len(self.left) > than


def test_parameters_results_methods_and_dataclasses_are_checked() -> None:
    assert halved(torch.zeros(3, 4)).shape == (3, 4)
    assert list(counted(3)) == [0, 1, 2]
    sizes = Sizes(torch.zeros(2), torch.ones(2))
    assert sizes.longer(1)
    for wrong in (
        lambda: halved(torch.zeros(3)),
        lambda: halved(torch.zeros(3, 4), twice=True),  # what comes back
        lambda: counted("3"),
        lambda: Sizes(torch.zeros(2), torch.zeros(3)),
        lambda: sizes.longer("1"),
    ):
        with pytest.raises(TypeCheckError):
            wrong()
    assert halved(torch.zeros(5, 6)).shape == (5, 6)  # a frame that was left by an error is gone


def test_names_and_texts_stay() -> None:
    assert (halved.__name__, halved.__module__) == ("halved", __name__)
    assert Sizes.longer.__qualname__ == "Sizes.longer"


def of(kind: Any) -> Callable[[Any], Any]:
    """A function within a function, whose parameter and result are of a type."""

    def same(x: kind) -> kind:
        return x

    same.__annotations__ = {"x": kind, "return": kind}
    return jaxtyped(typechecker=checker)(same)


def test_functions_of_one_name_are_not_taken_for_each_other() -> None:
    number, text = of(int), of(str)
    assert (number(1), text("one")) == (1, "one")
    for function, wrong in ((number, "one"), (text, 1)):
        with pytest.raises(TypeCheckError):
            function(wrong)


def test_a_signature_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    def counting(signature: Any) -> Any:
        compiled.append(signature)
        return typechecks_beartype(signature)

    typechecks_beartype = typechecks.beartype
    monkeypatch.setattr(typechecks, "beartype", counting)
    monkeypatch.setattr(typechecks, "_compiled", {})
    first, second = of(float), of(float)
    assert compiled == []
    assert [function(0.5) for function in (first, second, first)] == [0.5] * 3
    assert len(compiled) == 2  # one for parameters, one for the result


def test_what_comes_back_is_checked_too() -> None:
    @jaxtyped(typechecker=checker)
    def halved(x: Float[Tensor, "rows d"]) -> Float[Tensor, "rows d"]:
        return x[:, ::2]

    with pytest.raises(TypeCheckError, match="return value"):
        halved(torch.zeros(3, 4))


@pytest.mark.slow
def test_every_signature_of_the_package_can_be_compiled() -> None:
    """Those too that no test calls: beartype itself compiles every function when it is defined."""
    code = (
        "import importlib, pkgutil\n"
        "from jaxtyping import install_import_hook\n"
        "install_import_hook('remainder', 'beartype.beartype')\n"
        "import remainder\n"
        "names = [one.name for one in pkgutil.walk_packages(remainder.__path__, 'remainder.')]\n"
        "assert len(names) > 80, names\n"
        "for name in names:\n"
        "    name.startswith(('remainder._bundled', 'remainder.__main__')) or importlib.import_module(name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={"PYTHONPATH": str(HARNESS), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
