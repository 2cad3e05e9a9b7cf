"""Archives whose check runs in this process, where PyTorch is loaded already."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision.transforms.v2  # noqa: F401  it sets a variable of the environment when it is first imported
from smartbatch.archive import check
from smartbatch.archive.build import ArchiveSettings, build_archive
from smartbatch.archive.probe import probe


def archived(settings: ArchiveSettings) -> Path:
    """Build an archive with `smartbatch archive`'s own check, run here.

    One with a handler of its own is checked in the check's process, where the staged files alone can be imported; so
    are those of tests/contract/test_archive.py.
    """
    num_threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        if settings.handler is None:
            patch.setattr(check, "_run_child", lambda staged: probe(check.job_of(staged)))
        built = build_archive(settings)
    torch.set_num_threads(num_threads)  # a handler takes what is its share
    return built
