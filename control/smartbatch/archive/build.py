"""Build a model archive (.mar) that has proved to load.

    settings ──stage──▶ folder laid out as a worker sees it ──check──▶ loaded and run once ──pack──▶ <name>.mar

The check runs in a process of its own, on the staged handler, with the loader that the worker uses.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from smartbatch.archive.check import check
from smartbatch.archive.pack import pack
from smartbatch.archive.settings import ArchiveError, ArchiveSettings
from smartbatch.archive.stage import stage
from smartbatch.errors import UsageError

__all__ = ["ArchiveError", "ArchiveSettings", "build_archive"]


def build_archive(settings: ArchiveSettings, report: Callable[[str], None] = lambda _: None) -> Path:
    """Stage, check and write one archive; an archive that is returned has loaded and answered here.

    Args:
        settings: what goes in.
        report: called with one line as each step begins, and for what a user should know.

    Returns:
        The archive's path. It appears there complete or not at all.

    Raises:
        UsageError: a setting breaks a rule.
        ArchiveError: the model cannot be loaded or run; the message names the file.
    """
    if settings.archive_path.exists() and not settings.force:
        raise UsageError(f"{settings.archive_path} exists; --force replaces it")
    with tempfile.TemporaryDirectory(prefix="smartbatch-archive-") as folder:
        staged = stage(settings, Path(folder), report)
        report(f"checking that {staged.title} loads and answers")
        check(staged, report)
        report(f"writing {settings.archive_path}")
        return pack(staged, settings)
