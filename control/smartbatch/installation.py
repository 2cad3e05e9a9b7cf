"""Where SmartBatch's own files are, and which of its extras are installed.

In a clone they lie where one reads them; a wheel has copies of them beside this module (pyproject.toml says which).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from smartbatch.errors import UsageError

CONFIG_FILE = "config.properties"
MODEL_CONFIG = Path("handler") / "model-config.yaml"

_PACKED = Path(__file__).parent / "packed"
_CLONE = Path(__file__).resolve().parents[2]

EXTRAS = {"load": ("locust", "aiohttp", "matplotlib"), "bulk": ("pyarrow",), "ray": ("ray", "pyarrow")}
"""Of an extra that a command needs, what is imported of it."""


def files() -> Path:
    """The folder that has config.properties, config/, frontend/ and handler/model-config.yaml, as a clone has them."""
    return _PACKED if _PACKED.is_dir() else _CLONE


def model_store() -> Path:
    """Where archives are looked for that nobody named: the clone's folder; of a wheel, one in the current folder."""
    return Path("model_store") if _PACKED.is_dir() else _CLONE / "model_store"


def need(extra: str, command: str) -> None:
    """Refuse a command that needs an extra which is not installed.

    Raises:
        UsageError: with what to type.
    """
    missing = [module for module in EXTRAS[extra] if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(f"{command} needs {', '.join(missing)}: pip install 'smartbatch[{extra}]'")
