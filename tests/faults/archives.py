"""Archives made of another one: a tenth of a second, where building one anew takes a process that imports torch."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


def derive(archive: Path, target: Path, files: Mapping[str, str | None], section: Mapping[str, Any]) -> None:
    """The same archive under another name, with other files and another configuration.

    Args:
        archive: the one that is there.
        target: the one to write; the model is named after it.
        files: content by name; None leaves a file out.
        section: keys of the handler's configuration.
    """
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(target, "w") as derived:
        for name in source.namelist():
            content: str | bytes | None = files.get(name, source.read(name))
            if name == "MAR-INF/MANIFEST.json":
                manifest = json.loads(source.read(name))
                manifest["model"]["modelName"] = target.stem
                content = json.dumps(manifest)
            elif name == "model-config.yaml":
                config = yaml.safe_load(source.read(name))
                config["handler"] |= section
                content = yaml.safe_dump(config)
            if content is not None:
                derived.writestr(name, content)
