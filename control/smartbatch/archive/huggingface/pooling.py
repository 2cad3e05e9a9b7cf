"""How vectors of tokens become one of the text: as sentence-transformers wrote it down, or by the mean."""

from __future__ import annotations

import json
from typing import Any

from smartbatch.archive.huggingface.folder import Folder
from smartbatch.archive.settings import ArchiveError

_MODULES, _POOLING = "modules.json", "1_Pooling/config.json"
_KNOWN = ("Transformer", "Pooling", "Normalize")
_MODES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}


def keys(folder: Folder, notes: list[str]) -> dict[str, Any]:
    """`pooling` and `normalize`.

    Raises:
        ArchiveError: the model pools, or goes on, in a way that is not ours.
    """
    path = folder.path / _MODULES
    if not path.is_file():
        notes.append("the folder says nothing of pooling: mean of the tokens' vectors, normalized (--set pooling=cls)")
        return {"pooling": "mean", "normalize": True}
    try:
        kinds = [str(module["type"]).rpartition(".")[2] for module in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, KeyError, TypeError) as error:
        raise ArchiveError(f"{path}: must hold a list of modules, each with its type") from error
    if other := [kind for kind in kinds if kind not in _KNOWN]:
        raise ArchiveError(
            f"{path}: has a module {other[0]}, which is not served; taken are {', '.join(_KNOWN)}. A model.py "
            "with named inputs can hold the whole"
        )
    return {"pooling": _mode(folder), "normalize": "Normalize" in kinds}


def _mode(folder: Folder) -> str:
    config = folder.json(_POOLING) or {}
    said = config.get("pooling_mode")
    modes = [said] if isinstance(said, str) else [key for key, value in config.items() if value is True]
    modes = [_MODES.get(mode, mode) for mode in modes if mode in ("mean", "cls") or mode.startswith("pooling_mode_")]
    if len(modes) == 1 and modes[0] in ("mean", "cls"):
        return modes[0]
    raise ArchiveError(
        f"{folder.path / _POOLING}: pools by {', '.join(modes) or 'nothing'}; taken is mean, or cls, alone"
    )
