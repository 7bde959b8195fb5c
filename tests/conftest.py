"""Settings of every test: reproducible, off the network, no window opened."""

from __future__ import annotations

import os

from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported: a test must not depend on a hub
os.environ["MPLBACKEND"] = "agg"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, and for the same reason

# The same examples in every run, and no deadline: a busy machine must not fail a test.
settings.register_profile("remainder", derandomize=True, deadline=None, database=None, max_examples=50)
settings.load_profile("remainder")
