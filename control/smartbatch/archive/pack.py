"""Write the .mar: a zip with a manifest, the same bytes for the same input."""

from __future__ import annotations

import json
import os
import warnings
import zipfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from smartbatch.archive.settings import ArchiveSettings
from smartbatch.archive.stage import Staged
from smartbatch.model_config import CONFIG_FILE

_MANIFEST = "MAR-INF/MANIFEST.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can say
_INCOMPRESSIBLE = (".safetensors", ".pt", ".pt2", ".pth")


def pack(staged: Staged, settings: ArchiveSettings) -> Path:
    """Zip the staged folder into `settings.archive_path`, which appears complete or not at all."""
    target = settings.archive_path
    target.parent.mkdir(parents=True, exist_ok=True)
    manifest = _manifest(staged, settings)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with zipfile.ZipFile(partial, "w") as archive:
            for path in sorted(staged.folder.rglob("*")):
                if path.is_file():
                    _write(archive, path.relative_to(staged.folder).as_posix(), path)
            info = zipfile.ZipInfo(_MANIFEST, _EPOCH)
            info.external_attr = 0o644 << 16
            archive.writestr(info, json.dumps(manifest, indent=2), zipfile.ZIP_DEFLATED)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _manifest(staged: Staged, settings: ArchiveSettings) -> dict[str, Any]:
    """torch-model-archiver's manifest. Its packing stays unused: that clears /tmp/<model name>, whatever lies there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # importing it leaves its version.txt open
        from model_archiver.model_archiver_config import ModelArchiverConfig
        from model_archiver.model_packaging_utils import ModelExportUtils
    config = ModelArchiverConfig(
        model_name=settings.archive_name,
        handler=staged.entry_point,
        version=settings.version,
        config_file=CONFIG_FILE,
    )
    manifest = json.loads(ModelExportUtils.generate_manifest_json(config))
    assert isinstance(manifest, dict)
    return manifest | {"createdOn": _created_on()}


def _write(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.external_attr = 0o644 << 16
    info.file_size = path.stat().st_size
    info.compress_type = zipfile.ZIP_STORED if path.suffix in _INCOMPRESSIBLE else zipfile.ZIP_DEFLATED
    with path.open("rb") as source, archive.open(info, "w") as entry:
        while block := source.read(1 << 20):
            entry.write(block)


def _created_on() -> str:
    """The manifest's date: $SOURCE_DATE_EPOCH where a reproducible build sets it, else the present."""
    seconds = os.environ.get("SOURCE_DATE_EPOCH")
    moment = datetime.fromtimestamp(int(seconds), timezone.utc) if seconds else datetime.now(timezone.utc)
    return moment.strftime("%d/%m/%Y %H:%M:%S")
