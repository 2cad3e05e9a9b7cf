"""What all of them give: a file of weights, and what belongs to it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONNECT_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of a model that a library knows by name, and what belongs to them."""

    path: Path | None
    """File to take them from; None is seeded random initialisation."""
    source: str
    """pretrained, file or random."""
    note: str
    """One line for status, logs and headers."""
    image_keys: dict[str, Any]
    """Handler keys: how the model is shown pictures, as these weights were trained."""
    categories: list[str]
    """Class names, by index."""
    is_staged: bool = False
    """The file lies in the archive's folder already, in the form in which it ships."""


@contextmanager
def connect_timeout(timeout_s: float) -> Iterator[None]:
    """A blocked network hangs instead of failing, and torch.hub passes no timeout of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout_s)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
