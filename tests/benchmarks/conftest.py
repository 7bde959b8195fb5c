"""What the page on performance says of the machine besides what pytest-benchmark notes."""

from __future__ import annotations

import os
from typing import Any


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    """Note the load, and leave the machine's name out."""
    machine_info["load"] = f"{os.getloadavg()[0]:.1f}"
    machine_info.pop("node", None)
