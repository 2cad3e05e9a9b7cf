"""What lies in the model store: whose handler an archive has, its configuration, its example."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from smartbatch_worker.contract import media_types
from smartbatch_worker.contract.config import WorkerConfig

from smartbatch.errors import UsageError

_MANIFEST = "MAR-INF/MANIFEST.json"
_ENTRY_POINT = "smartbatch_handler.py"
_MAX_BYTES = 64 * 2**20
"""Of what is read of an archive."""

_BUILT_IN = ("image_classifier", "image_segmenter", "object_detector", "text_classifier")
"""TorchServe's own handlers, as `torch-model-archiver --handler` has them; all import captum."""


@dataclass(frozen=True, slots=True)
class Archive:
    """A .mar, or a folder laid out as one."""

    path: Path

    def read(self, name: str) -> bytes | None:
        """A file in it; None where there is none.

        Raises:
            UsageError: the archive cannot be read.
        """
        if self.path.is_dir():
            file = self.path / name
            return file.read_bytes() if file.is_file() else None
        try:
            with zipfile.ZipFile(self.path) as archive:
                if name not in archive.namelist() or archive.getinfo(name).file_size > _MAX_BYTES:
                    return None
                return archive.read(name)
        except zipfile.BadZipFile as error:
            raise UsageError(f"{self.path} is no archive: {error}") from error

    def manifest(self) -> dict[str, Any]:
        """Of the model; empty where there is none."""
        found = json.loads(self.read(_MANIFEST) or b"{}")
        model = found.get("model") if isinstance(found, dict) else None
        return model if isinstance(model, dict) else {}

    def config(self) -> dict[str, Any] | None:
        """The handler's configuration, every key; None where the handler is not SmartBatch's.

        Raises:
            UsageError: model-config.yaml has a key or value that no worker would take.
        """
        if not self.is_ours:
            return None
        name = self.manifest().get("configFile", "model-config.yaml")
        told = yaml.safe_load(self.read(name) or b"") or {}
        try:
            return WorkerConfig.resolve(told.get("handler") or {}, {}).as_dict()
        except ValueError as error:
            raise UsageError(f"{self.path}: {name}: {error}") from error

    def example(self, config: dict[str, Any]) -> tuple[bytes, str] | None:
        """The body of `--example`, and its content type."""
        name = str(config["example"])
        body = None if config["example"] is None else self.read(name)
        return None if body is None else (body, media_types.of_file(name))

    @property
    def is_ours(self) -> bool:
        """Whether SmartBatch's handler is in it."""
        return self.read(_ENTRY_POINT) is not None


def lacks(path: Path) -> str | None:
    """What users should know who serve an archive that torch-model-archiver made with another handler.

    Returns:
        One line; None for SmartBatch's own, and for what is no archive, of which TorchServe itself will tell.
    """
    archive = Archive(path)
    try:
        if archive.is_ours:
            return None
        handler = str(archive.manifest().get("handler", ""))
    except (UsageError, OSError, ValueError):
        return None
    name = handler.rpartition("/")[2]
    needs = " It needs `pip install 'smartbatch[torchserve]'`." if name in _BUILT_IN else ""
    return (
        f"{path.name} is served as it is, by its own handler ({name or 'unnamed'}): one bad request fails its whole "
        "batch, and there are no micro-batches, request deadlines or smartbatch_ metrics of its workers."
        f"{needs} `smartbatch migrate {name or 'handler.py'}` says how to move it"
    )
