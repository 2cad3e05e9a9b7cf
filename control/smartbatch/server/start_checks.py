"""What keeps a server from starting and would not say so: paths too long or unspeakable for it, and full disks."""

from __future__ import annotations

import locale
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from smartbatch.errors import UsageError

TMP_PREFIX = "smartbatch-"
_MAX_SOCKET_PATH_BYTES = 107
"""What the kernel takes, less the closing zero; in a longer one no worker can be reached."""
_SOCKET_NAME = ".ts.sock.65535"
_MKDTEMP_RANDOM_BYTES = 8
_MIN_FREE_BYTES = 1 << 20


def short_tmp_dir() -> Path:
    """A new temporary folder for one server; its workers' unix sockets live in it.

    Raises:
        UsageError: TMPDIR is so long that a socket's path would not fit.
    """
    parent = Path(tempfile.gettempdir()).absolute()
    most = _MAX_SOCKET_PATH_BYTES - len(f"/{TMP_PREFIX}/{_SOCKET_NAME}") - _MKDTEMP_RANDOM_BYTES
    num_bytes = len(os.fsencode(parent))
    if num_bytes > most:
        raise UsageError(
            f"the temporary folder's path may have at most {most} bytes, because the workers' unix sockets are made in "
            f"it, and {str(parent)!r} has {num_bytes}: set TMPDIR to a shorter one, for example TMPDIR=/tmp"
        )
    return Path(tempfile.mkdtemp(prefix=TMP_PREFIX, dir=parent))


def check_free_space(folders: Iterable[Path]) -> None:
    """Refuse a full disk: TorchServe would start, and never be heard of.

    Raises:
        UsageError: naming the folder and what is free.
    """
    for folder in folders:
        system = os.statvfs(folder)
        free = system.f_frsize * (system.f_bfree if os.geteuid() == 0 else system.f_bavail)
        if free < _MIN_FREE_BYTES:
            raise UsageError(
                f"no space left on device: {folder} has {free // 1024} KiB free, and a server needs at least "
                f"{_MIN_FREE_BYTES // 1024} KiB for its logs and models"
            )


def check_letters(paths: Iterable[Path]) -> None:
    """Refuse paths with letters that the locale's encoding lacks: Java would look for files of other names.

    Raises:
        UsageError: naming the path and the encoding.
    """
    encoding = locale.nl_langinfo(locale.CODESET)  # the C library's and so Java's; Python's own may be UTF-8
    for path in paths:
        try:
            str(path).encode(encoding)
        except UnicodeEncodeError as e:
            raise UsageError(
                f"the path {str(path)!r} has letters that this locale's encoding ({encoding}) lacks: set LC_ALL=C.UTF-8"
            ) from e
