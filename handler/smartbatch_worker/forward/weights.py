"""A model's weights in one file that all workers of a server map: in memory once, however many workers there are.

    a worker's own copy ──written once──▶ weights-<layout>.bin ──mapped──▶ every worker, its own copy freed

Each worker has built its weights by itself before; what it maps is compared with that, bit by bit. So whatever the file
is (cut short, another's, half written), no answer comes of it. A mapping is copied where it is written: a model that
changes its buffers changes its own.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import stat
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import numpy as np
import torch

from smartbatch_worker.contract.environment import WEIGHTS_PREFIX

logger = logging.getLogger(__name__)

MIN_BYTES = 1 << 20
"""Of a smaller model nothing is gained."""

_SUFFIX = ".bin"
_ALIGNED = 4096
_DIGEST_LETTERS = 16


def folder_of(model_dir: Path) -> Path:
    """Where the file is: beside the unpacked weights, which TorchServe removes with the model.

    A folder that is served as it is belongs to its user; then it is one of its own in the server's temporary folder.
    """
    if not model_dir.is_symlink():
        return model_dir
    name = hashlib.sha256(str(model_dir.absolute()).encode()).hexdigest()[:_DIGEST_LETTERS]
    return Path(tempfile.gettempdir()) / f"{WEIGHTS_PREFIX}{name}"


def share(
    modules: Sequence[torch.nn.Module], folder: Path, undisturbed: Callable[[], AbstractContextManager[None]]
) -> int:
    """Have these modules read their weights from a file that other workers map, too.

    Args:
        modules: on the CPU; any may be run meanwhile.
        folder: of the server's own; made if need be.
        undisturbed: entered for the moment in which tensors are exchanged: nobody runs the modules then.

    Returns:
        Bytes that are shared; 0 for a small model, or one that keeps its weights where nobody else may touch them.

    Raises:
        OSError: the file cannot be written or mapped; the modules are as they were.
    """
    if sys.platform != "linux" or any(
        isinstance(part, torch.jit.ScriptModule) for module in modules for part in module.modules()
    ):
        return 0
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage()
        for tensor in _tensors(modules)
        if tensor.device.type == "cpu" and tensor.layout == torch.strided and tensor.untyped_storage().nbytes()
    }
    offsets: dict[int, int] = {}
    num_bytes = 0
    for pointer, storage in storages.items():
        offsets[pointer] = num_bytes
        num_bytes += -(-storage.nbytes() // _ALIGNED) * _ALIGNED
    if num_bytes < MIN_BYTES:
        return 0
    own = [(offsets[pointer], _bytes(storage)) for pointer, storage in storages.items()]
    layout = repr([(offset, len(content)) for offset, content in own])
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.geteuid():
        raise PermissionError(f"{folder} belongs to another user")
    path = folder / f"{WEIGHTS_PREFIX}{hashlib.sha256(layout.encode()).hexdigest()[:_DIGEST_LETTERS]}{_SUFFIX}"
    handle, mapped = _mapped(path, own, num_bytes)
    for module in modules:
        weakref.finalize(module, os.close, os.dup(handle))  # held as long as it is used: others leave the file alone
    os.close(handle)
    with undisturbed():
        _exchange(modules, offsets, mapped)
    return num_bytes


def _tensors(modules: Sequence[torch.nn.Module]) -> Iterator[torch.Tensor]:
    for module in modules:
        yield from module.parameters()
        yield from module.buffers()


def _bytes(storage: torch.UntypedStorage) -> np.ndarray:
    return torch.empty(0, dtype=torch.uint8).set_(storage).numpy()


def _mapped(path: Path, own: Sequence[tuple[int, np.ndarray]], num_bytes: int) -> tuple[int, torch.UntypedStorage]:
    """The file, open and locked for its readers, and its bytes, which are `own`; written if they are not."""
    lock = os.open(path.parent / f"{WEIGHTS_PREFIX}lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first writes, the others compare
        if (found := _open(path, own, num_bytes)) is not None:
            return found
        if os.path.lexists(path):
            logger.warning("%s is not what this model's workers share: written anew", path)
        _remove_unused(path.parent)
        _write(path, own, num_bytes)
        if (found := _open(path, own, num_bytes)) is None:
            raise OSError(f"{path} does not hold what was written")
        return found
    finally:
        os.close(lock)


def _open(path: Path, own: Sequence[tuple[int, np.ndarray]], num_bytes: int) -> tuple[int, torch.UntypedStorage] | None:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    status = os.fstat(handle)
    is_ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
    if is_ours and status.st_size == num_bytes:
        fcntl.flock(handle, fcntl.LOCK_SH)
        mapped = torch.UntypedStorage.from_file(f"/proc/self/fd/{handle}", shared=False, nbytes=num_bytes)
        assert isinstance(mapped, torch.UntypedStorage)
        content = _bytes(mapped)
        if all(np.array_equal(content[offset : offset + len(part)], part) for offset, part in own):
            return handle, mapped
    os.close(handle)
    return None


def _write(path: Path, own: Sequence[tuple[int, np.ndarray]], num_bytes: int) -> None:
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)  # of a worker that was killed
    try:
        with partial.open("xb") as file:
            partial.chmod(0o600)
            os.posix_fallocate(file.fileno(), 0, num_bytes)  # a full disk is told now, not by a signal later
            for offset, part in own:
                file.seek(offset)
                file.write(part.data)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _remove_unused(folder: Path) -> None:
    """Files of models that nobody has in memory any more."""
    for path in folder.glob(f"{WEIGHTS_PREFIX}*{_SUFFIX}"):
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(handle)


def _exchange(modules: Sequence[torch.nn.Module], offsets: dict[int, int], mapped: torch.UntypedStorage) -> None:
    """Have every tensor's numbers lie in the mapping."""
    done: dict[int, torch.Tensor] = {}

    def in_mapping(tensor: torch.Tensor) -> torch.Tensor | None:
        offset = offsets.get(tensor.untyped_storage().data_ptr())
        if offset is None or id(tensor) in done:
            return done.get(id(tensor))
        start = offset // tensor.element_size() + tensor.storage_offset()
        done[id(tensor)] = torch.empty(0, dtype=tensor.dtype).set_(mapped, start, tensor.size(), tensor.stride())
        return done[id(tensor)]

    kept = []  # an id is a tensor's for as long as that lives
    for module in modules:
        for part in module.modules():
            for parameter in part._parameters.values():
                if parameter is not None and (there := in_mapping(parameter)) is not None:
                    parameter.data = there  # whoever else holds the parameter has it, too
            for name, buffer in part._buffers.items():
                if buffer is not None and (there := in_mapping(buffer)) is not None:
                    kept.append(buffer)
                    part._buffers[name] = there
