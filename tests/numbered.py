"""Inputs whose answers are told by their names."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def numbered(folder: Path, count: int) -> Path:
    """A new folder of .npy files, of which file n holds n, n + 1, n + 2, n + 3; their names are of one length."""
    folder.mkdir()
    digits = len(str(count))
    for n in range(count):
        np.save(folder / f"{n:0{digits}}.npy", np.arange(n, n + 4, dtype=np.float32))
    return folder
