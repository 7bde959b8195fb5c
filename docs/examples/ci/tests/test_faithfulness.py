"""What the SAE of this repository leaves out, tested like anything else: run `pytest`."""

import pytest


@pytest.mark.remainder(task="tiny/digits", max_gap=0.05)
def test_little_is_left_out(remainder_score):
    score = remainder_score("my-sae")
    assert score.kl_raw < 0.05
    assert score.bits_per_token < 100


@pytest.mark.remainder(
    task="tiny/digits", baseline="records/tiny-digits.json", fail_on_regression="gap_raw=0.02,kl_raw=0.02"
)
def test_it_is_no_worse_than_the_stored_record(remainder_score):
    remainder_score("my-sae")
