"""What a server's models will import beside what every worker does."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

import yaml
from smartbatch_worker.contract.config import WorkerConfig

from smartbatch.model_config import CONFIG_FILE, SECTION

_OF_PICTURES = "torchvision.transforms.v2"


def imports_of(archives: Iterable[Path]) -> tuple[str, ...]:
    """Modules that the fork server is to load for these models.

    Args:
        archives: .mar files, or folders that hold what is in one; what is none of ours asks for nothing.
    """
    return (_OF_PICTURES,) if any(map(_takes_pictures, archives)) else ()


def _takes_pictures(archive: Path) -> bool:
    try:
        if archive.is_dir():
            text = (archive / CONFIG_FILE).read_text(encoding="utf-8")
        else:
            with zipfile.ZipFile(archive) as mar:
                text = mar.read(CONFIG_FILE).decode()
        config = WorkerConfig.resolve((yaml.safe_load(text) or {}).get(SECTION) or {}, {})
    except (OSError, KeyError, ValueError, AttributeError, zipfile.BadZipFile, yaml.YAMLError):
        return False
    return config.takes_pictures
