"""Weights in one file that all workers map: the same bits, whatever the file was before."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from smartbatch_worker.forward import weights
from smartbatch_worker.forward.weights import share


class Network(torch.nn.Module):
    """Two layers that share a weight, in two precisions, and a buffer that counts calls."""

    calls: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = torch.nn.Linear(600, 600)
        self.first.weight = torch.nn.Parameter(torch.randn((600, 600), generator=generator), requires_grad=False)
        self.second = torch.nn.Linear(600, 600)
        self.second.weight = self.first.weight
        coarse = torch.randn((5, 7), generator=generator).to(torch.bfloat16)
        self.coarse = torch.nn.Parameter(coarse.t(), requires_grad=False)
        self.register_buffer("calls", torch.zeros(1, dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        answer: torch.Tensor = self.second(self.first(x))
        return answer


def file_in(folder: Path) -> Path:
    (found,) = folder.glob("smartbatch-weights-*.bin")
    return found


def is_mapped(module: torch.nn.Module, path: Path) -> bool:
    """Whether the first weight lies in a mapping of the file."""
    address = next(module.parameters()).data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(end, 16) for end in line.split()[0].split("-"))
        if first <= address < last:
            return line.endswith(str(path))
    return False


@pytest.fixture
def alike(tmp_path: Path) -> Callable[[], Network]:
    """Share a network's weights: they are the bits that they were, and the answers too."""

    def shared() -> Network:
        torch.manual_seed(1)
        network = Network()
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        batch = torch.randn((3, 600), generator=torch.Generator().manual_seed(2))
        with torch.inference_mode():
            expected = network(batch)
            assert share([network], tmp_path, nullcontext) > 600 * 600 * 4
            assert torch.equal(network(batch), expected)
        for name, tensor in network.state_dict().items():
            assert (tensor.dtype, tensor.stride()) == (before[name].dtype, before[name].stride())
            assert name == "calls" or torch.equal(tensor, before[name])
        assert network.first.weight is network.second.weight
        return network

    return shared


def test_two_workers_map_one_file_and_each_writes_its_own(alike: Callable[[], Network], tmp_path: Path) -> None:
    one, other = alike(), alike()
    path = file_in(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert is_mapped(one, path)
    assert is_mapped(other, path)
    content = path.read_bytes()
    one.first.weight.fill_(7.0)
    assert not bool((other.first.weight == 7.0).any())
    assert int(one.calls) == 2
    assert path.read_bytes() == content


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "link", "folder"])
def test_a_file_that_is_another_is_written_anew(
    alike: Callable[[], Network], tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    alike()
    path = file_in(tmp_path)
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "changed":
        path.write_bytes(content[:5] + bytes([content[5] ^ 1]) + content[6:])
        path.chmod(0o600)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "link":
        (tmp_path / "elsewhere").write_bytes(content)
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.mkdir()
        torch.manual_seed(1)
        with pytest.raises(OSError, match="directory"), torch.inference_mode():
            share([Network()], tmp_path, nullcontext)
        return
    network = alike()
    assert is_mapped(network, path)
    assert path.read_bytes() == content
    (record,) = (record for record in caplog.records if record.levelno >= logging.WARNING)
    assert "is not what this model's workers share: written anew" in record.getMessage()


def test_a_full_disk_leaves_each_its_own(small_disk: Path) -> None:
    network = Network()
    before = network.first.weight.data_ptr()
    with torch.inference_mode(), pytest.raises(OSError, match="No space left"):
        share([network], small_disk, nullcontext)
    assert network.first.weight.data_ptr() == before
    assert not list(small_disk.glob("*.bin")) + list(small_disk.glob("*.partial"))


def test_a_worker_that_is_killed_while_it_writes_is_in_nobodys_way(
    alike: Callable[[], Network], tmp_path: Path
) -> None:
    program = f"""
import os, signal, torch
from contextlib import nullcontext
from pathlib import Path
from smartbatch_worker.forward import weights
from tests.unit.forward.test_weights import Network
os.posix_fallocate = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
weights.share([Network()], Path({str(tmp_path)!r}), nullcontext)
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[3], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert list(tmp_path.glob("*.partial"))
    assert is_mapped(alike(), file_in(tmp_path))
    assert not list(tmp_path.glob("*.partial"))


def test_what_nobody_has_in_memory_goes(alike: Callable[[], Network], tmp_path: Path) -> None:
    network = alike()
    used = file_in(tmp_path)
    unused = used.with_name("smartbatch-weights-0123456789abcdef.bin")
    unused.write_bytes(b"of a way that was taken once")
    other = Network()
    other.register_buffer("more", torch.ones(300_000))
    with torch.inference_mode():
        share([other], tmp_path, nullcontext)
    assert used.exists()
    assert not unused.exists()
    del network
    weights._remove_unused(tmp_path)
    assert not used.exists()
    assert is_mapped(other, file_in(tmp_path))


def test_small_models_and_programs_keep_theirs(tmp_path: Path) -> None:
    assert share([torch.nn.Linear(4, 4)], tmp_path, nullcontext) == 0
    with pytest.warns(FutureWarning, match="deprecated"):
        program = torch.jit.trace(torch.nn.Linear(600, 600), torch.zeros(1, 600))  # type: ignore[no-untyped-call]
    assert share([program], tmp_path, nullcontext) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_served_as_it_is_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "unpacked").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "unpacked")
    assert weights.folder_of(tmp_path / "unpacked") == tmp_path / "unpacked"
    aside = weights.folder_of(tmp_path / "link")
    assert aside.parent == Path(tempfile.gettempdir())
    assert share([Network()], tmp_path / "made", nullcontext) > 0
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o700
