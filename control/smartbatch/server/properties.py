"""Java .properties files: the subset TorchServe's config.properties uses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from smartbatch.errors import UsageError


def read_properties(path: Path) -> dict[str, str]:
    """Read `key=value` lines; blank lines and lines starting with # or ! are skipped."""
    found: dict[str, str] = {}
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as e:
        raise UsageError(f"{path} must be UTF-8 text: {e}") from e
    for line in text.splitlines():
        entry = line.strip()
        if entry and entry[0] not in "#!":
            key, _, value = entry.partition("=")
            found[key.strip()] = value.strip()
    return found


def write_properties(path: Path, properties: Mapping[str, str]) -> None:
    """Write `properties` so that java.util.Properties reads back the same text, whatever a path is called."""
    path.write_text("".join(f"{key}={_escaped(value)}\n" for key, value in properties.items()), encoding="ascii")


def _escaped(value: str) -> str:
    if "\n" in value or "\r" in value:
        raise ValueError(f"a property is one line, got {value!r}")
    doubled = value.replace("\\", "\\\\")
    return "".join(c if c.isascii() else f"\\u{ord(c):04x}" for c in doubled)
