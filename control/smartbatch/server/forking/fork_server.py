"""Workers that begin with PyTorch imported: a process that has done so forks, a stand-in waits where TorchServe looks.

    TorchServe ──starts──▶ stand-in ──arguments, environment, folder, stdio──▶ fork server ──forks──▶ worker
                              ▲                                                                         │
                              └────────────── how it ended; each dies with the other ◀──────────────────┘

TorchServe starts `--python` with the worker's arguments. That is a script here, which becomes the stand-in: it hands
everything that makes a process what it is to the fork server, and ends as the worker ends. Where the fork server is
gone or refuses, the stand-in becomes the worker itself, as if there were none, and says so in the log.

This file is run by its path, as both: the standard library is all that the stand-in may load.
"""

from __future__ import annotations

import faulthandler
import fcntl
import gc
import importlib
import json
import os
import random
import runpy
import selectors
import shlex
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

_IMPORTS = (
    "numpy",
    "torch",
    "ts.arg_parser",
    "ts.async_service",
    "ts.model_loader",
    "ts.metrics.metric_cache_yaml_impl",
    "ts.protocol.otf_message_handler",
    "msgspec",
    "orjson",
    "simdjson",
    "safetensors.torch",
    "yaml",
    "PIL.Image",
)
"""What every worker loads, the slowest of it; what is not installed is left to them."""

_READ_AT_IMPORT = ("OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "TORCH", "PYTORCH", "CUDA", "LD_", "MALLOC_", "PYTHON")
"""Beginnings of variables that libraries read while they are loaded: a worker that wants others starts by itself."""
_NOT_THEN = {"PYTHONPATH", "PYTHONFAULTHANDLER", "PYTHONDONTWRITEBYTECODE", "TORCHINDUCTOR_CACHE_DIR"}
_NOT_THEN |= {"KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"}
"""Of these, Python's are applied after the fork; torch and scikit-learn set the others when they are imported."""

_FRONTEND_PID, _FORKED_PYTHON = "SMARTBATCH_FRONTEND_PID", "SMARTBATCH_FORKED_PYTHON"  # as contract/environment.py
_BEGIN_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 60.0
_STATUS_TIMEOUT_S = 10.0
_MAX_BYTES = 8 << 20
_NUM_FILES = 4


class _Refused(Exception):
    """The fork server makes no worker of this; the message says why."""


def python_command(python: str, address: Path) -> list[str]:
    """What to type for `python`, so that what follows is forked: a script or `-m MODULE`, and its arguments.

    Args:
        python: that the forked process takes itself for.
        address: of the fork server's socket.
    """
    return [python, "-IS", str(Path(__file__).resolve()), "stand-in", str(address), python]


def write_launcher(path: Path, python: str, address: Path) -> None:
    """Write what TorchServe is to start as its Python.

    Args:
        path: of the script.
        python: that workers run on.
        address: of the fork server's socket.
    """
    path.write_text(f'#!/bin/sh\nexec {shlex.join(python_command(python, address))} "$@"\n', encoding="utf-8")
    path.chmod(0o700)


def server_command(python: str, address: Path, imports: Sequence[str] = ()) -> list[str]:
    """The command that runs the fork server.

    Args:
        python: that it runs on.
        address: of its socket.
        imports: modules to load beside what every worker needs.
    """
    return [python, str(Path(__file__).resolve()), "serve", str(address), *imports]


def stand_in(address: str, python: str, arguments: Sequence[str]) -> NoReturn:
    """Have a worker forked and end as it ends; or become it, where that cannot be."""
    try:
        status = _forked(python, address, arguments)
    except (OSError, ValueError, _Refused) as error:
        print(f"this worker starts without the fork server, in seconds: {error}", file=sys.stderr, flush=True)
        os.execv(python, [python, *arguments])
    if os.WIFSIGNALED(status):
        os.kill(os.getpid(), signal.SIGKILL)  # 137 for TorchServe: 128 and the signal, of which this one cannot fail
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _forked(python: str, address: str, arguments: Sequence[str]) -> int:
    """Wait for a worker that the fork server makes; its status as `os.waitpid` has it.

    Raises:
        OSError: there is no fork server.
        _Refused: it is there and makes none.
    """
    itself = shlex.join(python_command(python, Path(address)))
    environment = {**os.environ, _FRONTEND_PID: str(os.getppid()), _FORKED_PYTHON: itself}
    ignored = [number for number in (signal.SIGHUP, signal.SIGTERM) if signal.getsignal(number) == signal.SIG_IGN]
    request = {"arguments": arguments, "environment": environment, "folder": str(Path.cwd()), "ignored": ignored}
    payload = json.dumps(request).encode() + b"\n"
    ours, workers = socket.socketpair()
    with socket.socket(socket.AF_UNIX) as server, ours:
        server.settimeout(_ANSWER_TIMEOUT_S)
        deadline = time.monotonic() + _BEGIN_TIMEOUT_S
        while not Path(address).exists() and time.monotonic() < deadline:  # it began when TorchServe did
            time.sleep(0.01)
        server.connect(address)
        with workers, suppress(BrokenPipeError):  # it may have refused and closed by now: its answer says why
            server.sendall(payload[socket.send_fds(server, [payload], [0, 1, 2, workers.fileno()]) :])
        lines = server.makefile("rb")
        answer = json.loads(lines.readline() or b'{"refused": "it ended"}')
        if "refused" in answer:
            raise _Refused(answer["refused"])
        server.settimeout(_STATUS_TIMEOUT_S)
        ours.recv(1)  # nothing is ever sent: it ends with the worker
        try:
            return int(json.loads(lines.readline())["status"])
        except (OSError, ValueError):  # the fork server is gone, and with it who knew
            return 1 << 8


class ForkServer:
    """Forks workers for stand-ins of the same user; single-threaded, as forking wants it.

    Args:
        address: of its socket, in a folder that only this user can look into.
    """

    def __init__(self, address: str) -> None:
        self._python_path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        self._environment = _read_at_import(os.environ)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{address}.new")
        self._listener.listen(128)  # stand-ins wait here while we import
        Path(f"{address}.new").rename(address)  # who sees it may connect
        self._selector = selectors.DefaultSelector()
        self._stand_ins: dict[int, socket.socket] = {}
        """By the worker's pid."""
        self._num_threads = _num_threads()

    def prepare(self, imports: Sequence[str]) -> None:
        """Import what workers need."""
        del sys.path[0]  # this file's folder
        gc.disable()  # looking through what is imported, and stays, is a tenth of importing it
        for name in (*_IMPORTS, *imports):
            with suppress(ImportError):
                importlib.import_module(name)
        gc.collect()
        gc.freeze()  # what a collection never touches stays shared with the workers
        gc.enable()
        self._num_threads = _num_threads()  # OpenBLAS has some, and stops them itself before each fork

    def serve(self) -> list[str]:
        """Fork workers until this process ends.

        Returns:
            In each worker: what it is to run, as given to Python; the server itself never returns.
        """
        woken, wakes = socket.socketpair()
        for end in (woken, wakes):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(woken, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is woken:
                    woken.recv(4096)
                    self._bury()
                elif key.fileobj is not self._listener:
                    self._lose(key.data)
                elif (arguments := self._accept()) is not None:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for end in (woken, wakes):
                        end.close()
                    return arguments

    def _accept(self) -> list[str] | None:
        """Fork for one stand-in; only the worker gets an answer, what it is to run."""
        stand_in, _ = self._listener.accept()
        files: list[int] = []
        try:
            stand_in.settimeout(_STATUS_TIMEOUT_S)
            request = _receive(stand_in, files)
            self._check(stand_in, request)
            pid = os.fork()
            if pid == 0:
                return self._child(stand_in, request, files)
            self._stand_ins[pid] = stand_in
            self._selector.register(stand_in, selectors.EVENT_READ, pid)
            _send(stand_in, {"pid": pid})
        except (OSError, ValueError, KeyError, _Refused) as error:
            _send(stand_in, {"refused": str(error) or type(error).__name__})
            if stand_in not in self._stand_ins.values():
                stand_in.close()
        finally:
            for file in files:
                os.close(file)
        return None

    def _child(self, stand_in: socket.socket, request: Mapping[str, Any], files: Sequence[int]) -> list[str]:
        """In a worker: become it, or end; what goes wrong here must not be taken for the server's."""
        try:
            self._selector.close()
            for other in (self._listener, stand_in, *self._stand_ins.values()):
                other.close()
            return _become(request, files, self._python_path)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    def _check(self, stand_in: socket.socket, request: Mapping[str, Any]) -> None:
        _, uid, _ = struct.unpack("3i", stand_in.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in (os.getuid(), 0):
            raise _Refused("it belongs to another user")
        wanted = _read_at_import(request["environment"])
        if wanted != self._environment:
            others = sorted(k for k in wanted.keys() | self._environment if wanted.get(k) != self._environment.get(k))
            raise _Refused(f"it was started with another {', '.join(others)}")
        if _num_threads() > self._num_threads:
            raise _Refused("it has threads, which a fork would lose")

    def _bury(self) -> None:
        """Tell stand-ins how their workers ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            stand_in = self._stand_ins.pop(pid, None)
            if stand_in is not None:
                self._selector.unregister(stand_in)
                _send(stand_in, {"status": status})
                stand_in.close()

    def _lose(self, pid: int) -> None:
        """A stand-in is gone: TorchServe has killed it, and means the worker."""
        if pid in self._stand_ins:
            os.kill(pid, signal.SIGKILL)
            self._selector.unregister(self._stand_ins[pid])  # its death is told by SIGCHLD
            self._stand_ins.pop(pid).close()


def _receive(stand_in: socket.socket, files: list[int]) -> dict[str, Any]:
    """What is asked for; the files that come with it are added to `files`, to be closed whatever comes of it."""
    payload, received, _, _ = socket.recv_fds(stand_in, 1 << 16, _NUM_FILES)
    files += received
    while len(payload) < _MAX_BYTES and not payload.endswith(b"\n") and (piece := stand_in.recv(1 << 16)):
        payload += piece
    if len(files) != _NUM_FILES:
        raise _Refused("what it was asked is no request for a worker")
    request: dict[str, Any] = json.loads(payload)
    return request


def _send(stand_in: socket.socket, message: Mapping[str, Any]) -> None:
    with suppress(OSError):  # it is gone, which its end of file tells
        stand_in.sendall(json.dumps(message).encode() + b"\n")


def _become(request: Mapping[str, Any], files: Sequence[int], old_python_path: Sequence[str]) -> list[str]:
    """In a worker: take over what TorchServe gave the stand-in; returns the arguments."""
    *stdio, stand_in = files
    for number, file in enumerate(stdio):
        os.dup2(file, number)
    # TorchServe ends a worker that hangs by SIGKILL, which the stand-in gets: its end of this socket then closes, and
    # the kernel passes the signal on, whatever this process does, and whether or not the fork server lives.
    kept = os.dup(stand_in)
    with suppress(OSError):  # a sandbox may not have it: the fork server does the same, as long as it lives
        fcntl.fcntl(kept, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(kept, _F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(kept, fcntl.F_SETFL, fcntl.fcntl(kept, fcntl.F_GETFL) | os.O_ASYNC)
    for number in request.get("ignored", ()):  # as what TorchServe starts does: a stop is its parent's to order
        signal.signal(number, signal.SIG_IGN)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    (faulthandler.enable if os.environ.get("PYTHONFAULTHANDLER") else faulthandler.disable)()
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    arguments = list(map(str, request["arguments"]))
    python_path = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    first = request["folder"] if arguments[0] == "-m" else str(Path(arguments[0]).parent)
    sys.path[:] = [first, *python_path, *(p for p in sys.path if p not in old_python_path)]
    sys.argv = arguments[1:] if arguments[0] == "-m" else arguments
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    return arguments


_F_SETSIG = 10  # of Linux; Python's fcntl has no name for it


def _read_at_import(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value for name, value in environment.items() if name.startswith(_READ_AT_IMPORT) and name not in _NOT_THEN
    }


def _num_threads() -> int:
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def main(arguments: Sequence[str]) -> None:
    """`stand-in ADDRESS PYTHON WORKER'S-ARGUMENTS…`, or `serve ADDRESS MODULE…`."""
    if arguments[0] == "stand-in":
        stand_in(arguments[1], arguments[2], arguments[3:])
    server = ForkServer(arguments[1])
    server.prepare(arguments[2:])
    script, *more = server.serve()
    if script == "-m":
        runpy.run_module(more[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
