"""How a cluster is shared out among actors; Ray itself is tests/e2e/test_score.py's."""

from __future__ import annotations

import pytest
from smartbatch.errors import UsageError
from smartbatch.scoring.cluster import Share, share_out

TWO = [{"CPU": 4.0}, {"CPU": 3.0, "memory": 1e9}]
WITH_GPUS = [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 8.0}, {"CPU": 8.0, "GPU": 2.0}]


def test_one_a_core_or_so_many_cores_of_one_machine() -> None:
    assert share_out(TWO, None, None, 100) == Share(actors=7, cpus=1, gpus=0)
    assert share_out(TWO, None, 2, 100) == Share(actors=3, cpus=2, gpus=0)
    assert share_out(TWO, 2, 2, 100) == Share(actors=2, cpus=2, gpus=0)
    assert share_out(TWO, None, None, 5).actors == 5, "no more than there are parts"


def test_one_a_gpu_with_its_share_of_the_cores() -> None:
    assert share_out(WITH_GPUS, None, None, 100) == Share(actors=4, cpus=4, gpus=1)
    assert share_out(WITH_GPUS, None, 8, 100) == Share(actors=3, cpus=8, gpus=1)


def test_what_there_is_no_room_for_is_refused() -> None:
    with pytest.raises(UsageError, match="--cpus must be at most 4, the cores of the largest machine; got 5"):
        share_out(TWO, None, 5, 100)
    with pytest.raises(UsageError, match="--actors must be at most 3, as the cluster has shares of 2 cores; got 4"):
        share_out(TWO, 4, 2, 100)
    with pytest.raises(UsageError, match="--actors must be at most 4, as the cluster has GPUs; got 5"):
        share_out(WITH_GPUS, 5, None, 100)
