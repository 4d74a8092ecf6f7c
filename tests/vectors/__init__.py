"""Known answers, and where they come from (README.md)."""

import json
from pathlib import Path
from typing import Any


def load(name: str) -> dict[str, Any]:
    """One of the JSON files in this folder."""
    content: dict[str, Any] = json.loads((Path(__file__).parent / f"{name}.json").read_text(encoding="utf-8"))
    return content
