"""The JSON schemas of the files that results consist of, written into docs/schemas: run it after a change.

python docs/examples/schemas.py
"""

from __future__ import annotations

import json
from pathlib import Path

from remainder.board.data import BoardFile
from remainder.record.flow_file import FLOWS
from remainder.record.layers_file import LAYERS
from remainder.record.levels_file import LEVELS
from remainder.record.modes_file import MODES
from remainder.record.schema import Record
from remainder.record.tissues_file import TISSUES

FOLDER = Path(__file__).resolve().parents[1] / "schemas"


def schemas() -> dict[str, str]:
    """The content of each file, by its name."""
    found = {"leaderboard.json": BoardFile.model_json_schema(), "record.json": Record.model_json_schema()}
    kinds = (FLOWS, LAYERS, LEVELS, MODES, TISSUES)
    found |= {f"{kind.command}.json": kind.schema() for kind in kinds}
    return {name: json.dumps(one, indent=1, ensure_ascii=False) + "\n" for name, one in found.items()}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in schemas().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
