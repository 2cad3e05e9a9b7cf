"""Archives whose check runs in this process, where PyTorch is loaded already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torchvision.transforms.v2  # noqa: F401  it sets a variable of the environment when it is first imported
from smartbatch.archive import check
from smartbatch.archive.build import ArchiveSettings, build_archive
from smartbatch.archive.probe import probe


@contextmanager
def checked_here() -> Iterator[None]:
    """Archives that are built meanwhile are checked here, by `smartbatch archive`'s own check."""
    num_threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "_run_child", lambda staged: probe(check.job_of(staged)))
        yield
    torch.set_num_threads(num_threads)  # a handler takes what is its share


def archived(settings: ArchiveSettings) -> Path:
    """Build an archive whose check runs here.

    One with a handler of its own is checked in the check's process, where the staged files alone can be imported; so
    are those of tests/contract/test_archive.py.
    """
    if settings.handler is not None:
        return build_archive(settings)
    with checked_here():
        return build_archive(settings)
