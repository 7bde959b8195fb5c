"""Both readings of outputs against distributions of scipy and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Normal as TorchNormal
from torch.distributions import kl_divergence

from remainder.measure.likelihood import Categorical, Normal, likelihood_of


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_numbers_have_a_normal_distribution_of_variance_one() -> None:
    clean, spliced, targets = random(9, 1, seed=0), random(9, 1, seed=1), 3 * random(9, seed=2)
    likelihood = likelihood_of(targets)
    assert isinstance(likelihood, Normal)
    found = likelihood.compare(likelihood.keep(clean), spliced, targets)
    density = stats.norm.logpdf(targets.numpy(), loc=spliced[:, 0].numpy())
    np.testing.assert_allclose(found.loss.numpy(), -density, rtol=1e-12)
    kl = kl_divergence(TorchNormal(clean[:, 0], 1.0), TorchNormal(spliced[:, 0], 1.0))
    torch.testing.assert_close(found.kl, kl)
    assert found.answers is None


def test_classes_have_the_distribution_of_their_logits() -> None:
    clean, spliced = 2 * random(9, 5, seed=0), 2 * random(9, 5, seed=1)
    targets = torch.arange(9) % 5
    likelihood = likelihood_of(targets)
    assert isinstance(likelihood, Categorical)
    found = likelihood.compare(likelihood.keep(clean), spliced, targets)
    p, q = (torch.distributions.Categorical(logits=logits) for logits in (clean, spliced))
    torch.testing.assert_close(found.loss, -q.log_prob(targets))
    torch.testing.assert_close(found.kl, kl_divergence(p, q))
    assert found.answers is not None
    assert found.answers.tolist() == spliced.argmax(-1).tolist()


@pytest.mark.parametrize("outputs", [5, 1])
def test_the_same_outputs_have_no_divergence(outputs: int) -> None:
    clean = 30 * random(9, outputs, seed=0).float()
    targets = torch.zeros(9) if outputs == 1 else torch.zeros(9, dtype=torch.int64)
    likelihood = likelihood_of(targets)
    kl = likelihood.compare(likelihood.keep(clean), clean, targets).kl
    assert float(kl.abs().max()) < 1e-5


@pytest.mark.parametrize("outputs", [5, 1])
def test_the_clean_pass_reads_its_outputs_as_any_other(outputs: int) -> None:
    clean, spliced = random(9, outputs, seed=0), random(9, outputs, seed=1)
    targets = random(9, seed=2) if outputs == 1 else torch.arange(9) % outputs
    likelihood = likelihood_of(targets)
    kept, own = likelihood.clean(clean, targets)
    expected = likelihood.compare(likelihood.keep(clean), clean, targets)
    assert torch.equal(own.loss, expected.loss)
    assert own.kl.tolist() == [0.0] * 9
    if expected.answers is not None:
        assert own.answers is not None
        assert own.answers.tolist() == expected.answers.tolist()
    found, again = (likelihood.compare(each, spliced, targets) for each in (kept, likelihood.keep(clean)))
    assert torch.equal(found.kl, again.kl)
