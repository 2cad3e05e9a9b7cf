"""What users type, scrape and find in files, kept as data: a change of it is meant, and stands in the CHANGELOG.

`GOLDEN=write make test` writes the files anew.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def check(name: str, found: Any) -> None:
    """Compare `found`, plain data, with tests/golden/<name>.json."""
    path = Path(__file__).with_name(f"{name}.json")
    if os.environ.get("GOLDEN") == "write":
        path.write_text(json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    expected = json.loads(path.read_text(encoding="utf-8"))
    assert found == expected, f"{path.name} differs; if that is meant, say so in CHANGELOG.md and run with GOLDEN=write"


def keys_of(data: Any) -> Any:
    """The keys of nested mappings; of a list, those of its first entry."""
    if isinstance(data, Mapping):
        return {str(key): keys_of(value) for key, value in data.items()}
    if isinstance(data, list):
        return [keys_of(data[0])] if data and isinstance(data[0], Mapping) else []
    return None


def files_in(folder: Path) -> list[str]:
    """Every file below `folder`, numbers in names as N."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted({re.sub(r"\d+", "N", name) for name in names})
