"""From what the user typed behind --hf to a folder: itself, or what the hub has under that name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from smartbatch.archive.settings import ArchiveError
from smartbatch.errors import UsageError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_FILES = ["*.json", "*.safetensors", "1_Pooling/config.json"]
"""Of a model on the hub; its weights in other formats are neither needed nor safe."""
TIMEOUT_S = 10.0


def find(given: str, report: Callable[[str], None]) -> Path:
    """The folder of a model.

    Args:
        given: a folder, or a name on the hub, as "distilbert/distilbert-base-uncased".
        report: told what is fetched.

    Raises:
        UsageError: it is neither.
        ArchiveError: the hub cannot be reached, or has no such model.
    """
    path = Path(given)
    if given and path.is_dir():
        return path
    if (given and path.exists()) or not _NAME.fullmatch(given):
        raise UsageError(f"--hf must be a folder with a config.json, or a model's name on the hub; got {given!r}")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ArchiveError(
            f"{given}: is no folder here; to fetch one of that name needs {error.name}: pip install 'smartbatch[hf]'"
        ) from error
    report(f"fetching {given} from the Hugging Face hub")
    try:
        return Path(snapshot_download(given, allow_patterns=_FILES, etag_timeout=TIMEOUT_S))
    except Exception as error:  # the library's errors, and those of the HTTP client that it happens to use
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ArchiveError(
            f"{given}: is no folder here, and cannot be fetched from the Hugging Face hub ({reason}). Without network, "
            "copy the model's folder here (config.json, tokenizer.json, *.safetensors) and give --hf FOLDER"
        ) from error
