"""What glibc's allocator keeps for reuse and what it returns to the system; elsewhere both calls do nothing."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

KEPT_BLOCK_BYTES = 128 * 2**20
"""A forward's largest tensors: ResNet18's at 32 images have 26 MB, at 480 px 120 MB."""
KEPT_BYTES = 128 * 2**20
"""Free memory at the heap's end before any of it is returned."""

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_large_blocks() -> None:
    """Reuse freed blocks of up to KEPT_BLOCK_BYTES.

    By itself glibc returns every block over 32 MiB at once, and the heap's end when 64 MiB of it are free; the next
    forward takes them anew, page by page. That was a tenth of ResNet18's time at 32 images.
    """
    set_option = _of_libc("mallopt")
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, KEPT_BLOCK_BYTES)
        set_option(_M_TRIM_THRESHOLD, KEPT_BYTES)


def return_free_memory() -> None:
    """Give back all that is free, so that an idle model costs nothing."""
    trim = _of_libc("malloc_trim")
    if trim is not None:
        trim(0)


def _of_libc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
