"""An archive's own handler in this process, asked as TorchServe's worker asks it; there is no server.

The handler and `smartbatch_worker` are those of the archive: `take_over` makes this process theirs, before anything of
them is imported.
"""

from __future__ import annotations

import fcntl
import importlib
import inspect
import json
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import yaml

from smartbatch.archive.context import Request, receive, start_context
from smartbatch.bulk.rows import Failure
from smartbatch.errors import SmartBatchError

_PREFIX = "smartbatch-score-"
_LOCK = "lock"
_MAX_ANSWER_BYTES = 2**31 - 1
_OURS = ("smartbatch_worker", "smartbatch_handler")


class BrokenModelError(SmartBatchError):
    """The archive's handler or model does not start."""


def unpack(archive: IO[bytes]) -> Path:
    """The content of a .mar in a folder of this process's own.

    Folders of processes that were killed are removed first: a killed one cannot remove its own, which may be gigabytes.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        _remove_if_left(left)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)  # and is held until this process ends
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder / "model")
    return folder / "model"


def take_over(folder: Path, environment: Mapping[str, str]) -> None:
    """Make this process the worker of an unpacked archive.

    Args:
        folder: as `unpack` gave it.
        environment: variables that the handler reads.
    """
    for name in [name for name in sys.modules if name.partition(".")[0] in _OURS]:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    # The handler asks its frontend how long an answer may be. There is none: this process stands for it.
    properties = folder.parent / "config.properties"
    properties.write_text(f"max_response_size={_MAX_ANSWER_BYTES}\n", encoding="utf-8")
    os.environ.update(
        {
            **environment,
            "SMARTBATCH_LOAD": "eager",  # whoever has millions of rows has the time to find the fastest way first
            "SMARTBATCH_FRONTEND_PID": str(os.getpid()),
            "TS_CONFIG_FILE": str(properties),
        }
    )
    # A worker prints its metrics, a line for each several times a second, for a frontend that would read them.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


class Worker:
    """The handler, started."""

    def __init__(self, folder: Path, batch_size: int, gpu_id: int | None) -> None:
        """Load the model.

        Args:
            folder: which this process was given to.
            batch_size: rows that are handed over together, at most.
            gpu_id: of those that this process sees; None: none.

        Raises:
            BrokenModelError: the handler cannot be imported, or does not start.
        """
        manifest = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text(encoding="utf-8"))
        model = manifest["model"]
        config = yaml.safe_load((folder / model["configFile"]).read_text(encoding="utf-8")) or {}
        try:
            module = importlib.import_module(Path(model["handler"]).stem)
            entry: Any = next(
                value
                for value in vars(module).values()
                if inspect.isclass(value) and value.__module__ == module.__name__
            )
            self._handler: Any = entry()
            self._context = start_context(folder, manifest, config, batch_size, gpu_id)
            self._handler.initialize(self._context)
        except Exception as e:
            raise BrokenModelError(f"{model['modelName']} does not start: {type(e).__name__}: {e}") from e

    def answer(self, bodies: Sequence[tuple[bytes, str]], headers: Mapping[str, str]) -> list[bytes | Failure]:
        """An answer, or a failure, for each body and its content type, in order."""
        requests = [Request.of_body(body, content_type, headers) for body, content_type in bodies]
        try:
            replies = self._handler.handle(receive(self._context, requests), self._context)
            if len(replies) != len(requests):
                raise ValueError(f"handle gave {len(replies)} replies to {len(requests)} requests")
        except Exception as e:  # of a handler with a `handle` of its own: TorchServe fails the batch
            return [Failure("handler_failed", f"{type(e).__name__}: {e}", 500)] * len(requests)
        return [self._outcome(index, bytes(reply)) for index, reply in enumerate(replies)]

    def _outcome(self, index: int, reply: bytes) -> bytes | Failure:
        status, _ = self._context.get_response_status(index)
        if int(status) != 200:
            error = json.loads(reply)["error"]
            return Failure(error["code"], error["message"], int(status))
        return reply


def _remove_if_left(folder: Path) -> None:
    with suppress(OSError):  # another user's, or just being made or removed by a process beside this one
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)
