"""Why a worker does not start: how often it has died since we watch, and the last error it wrote.

TorchServe starts a dead worker again for five minutes, and its management API says UNLOADING all the while. What it
was is in the logs: model_log.log has what each worker wrote, and ts_log.log the frontend's word on those it lost.

    2026-11-25T21:31:09,263 [INFO ] W-23125-tiny_1.0-stdout MODEL_LOG - RuntimeError: no weights
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from smartbatch.remote.model_status import WorkerStatus

MODEL_LOG, FRONTEND_LOG = "model_log.log", "ts_log.log"
_LINE = re.compile(r"\S+ \[(?P<level>\w+) *\] W-(?P<id>\d+)-\S* \S+ - (?P<text>.*)")
_TRACEBACK = "Traceback (most recent call last):"
_PROCESS_STARTED = "[PID]"
_PROCESS_DIED = "Backend worker process died."
_LOAD_FAILED = "Load model failed: "
# What TorchServe itself raises when a handler has failed: the handler's own error stands before it.
_TORCHSERVES_OWN = re.compile(r"ModuleNotFoundError: No module named 'ts\.torch_handler\.|RuntimeError: \d+ - ")
_MODULES = re.compile(r"^(\w+\.)+(?=\w+(:|$))")
_MAX_READ_BYTES = 4 << 20


class WorkerLog:
    """The logs of one server, from this moment on.

    Args:
        folder: with its logs; None for a server whose logs are not here: then only process ids tell of deaths.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._offsets = {} if folder is None else {name: _size(folder / name) for name in (MODEL_LOG, FRONTEND_LOG)}
        self._lines: dict[str, dict[str, list[tuple[str, str]]]] = {MODEL_LOG: {}, FRONTEND_LOG: {}}
        self._pids: dict[str, set[int]] = {}

    @property
    def place(self) -> str:
        """Where to read more, in words."""
        if self._folder is None:
            return f"logs/{MODEL_LOG} where that TorchServe was started"
        return str(self._folder / MODEL_LOG)

    def num_deaths(self, workers: Sequence[WorkerStatus]) -> int:
        """How often the unluckiest of `workers` has died; call it at each look at them.

        Where the logs are here, a death counts once what that process wrote is all in them, or another has followed:
        TorchServe tells of a death before it has read the dead one's last lines.
        """
        texts = [self._texts(MODEL_LOG, workers), self._texts(FRONTEND_LOG, workers)]
        most = 0
        for worker in workers:
            if worker.pid > 0:
                self._pids.setdefault(worker.id, set()).add(worker.pid)
            model, frontend = (of_worker.get(worker.id, []) for of_worker in texts)
            known = max(
                len(self._pids.get(worker.id, ())) - 1,
                sum(text.startswith(_PROCESS_STARTED) for _, text in model) - 1,
                sum(text == _PROCESS_DIED for _, text in model),
                sum(text.startswith(_LOAD_FAILED) for _, text in frontend),
            )
            if self._folder is not None:
                ended, _ = _lives(model)
                known = max(min(known, len(ended)), known - 1)
            most = max(most, known)
        return most

    def last_error(self, workers: Sequence[WorkerStatus]) -> str | None:
        """The last error that one of `workers` wrote; None where none did.

        Of a life that is all written down, where there is one: of a present one there may be half a traceback.
        """
        by_worker = self._texts(MODEL_LOG, workers)
        lives = [_lives(by_worker.get(worker.id, [])) for worker in workers]
        whole = [life for ended, _ in lives for life in reversed(ended)]
        errors = (find_error(life) for life in (*whole, *(present for _, present in lives)))
        return next((error for error in errors if error is not None), None)

    def _texts(self, name: str, workers: Iterable[WorkerStatus]) -> dict[str, list[tuple[str, str]]]:
        """(level, text) of each whole line since we watch, by worker; those of workers not asked for are dropped."""
        found = self._lines[name]
        if self._folder is None:
            return found
        path = self._folder / name
        if _size(path) < self._offsets[name]:  # rotated since: all of it is new
            self._offsets[name] = 0
        try:
            with path.open("rb") as file:
                file.seek(self._offsets[name])
                content = file.read(_MAX_READ_BYTES)
        except FileNotFoundError:
            return found
        if len(content) < _MAX_READ_BYTES:  # a longer line than that is not waited for
            content = content[: content.rfind(b"\n") + 1]
        self._offsets[name] += len(content)
        wanted = {worker.id for worker in workers}
        for line in content.decode("utf-8", "replace").splitlines():
            match = _LINE.fullmatch(line)
            if match is not None and match["id"] in wanted:
                found.setdefault(match["id"], []).append((match["level"], match["text"]))
        return found


def _lives(lines: Sequence[tuple[str, str]]) -> tuple[list[list[tuple[str, str]]], list[tuple[str, str]]]:
    """What each process of one worker wrote: of those that are all written down, in order, and of the present one.

    A life is written down when the next one begins, or when TorchServe's own error has come, with which its Python
    code ends.
    """
    lives: list[list[tuple[str, str]]] = [[]]
    for line in lines:
        if line[1].startswith(_PROCESS_STARTED) and lives[-1]:
            lives.append([])
        lives[-1].append(line)
    is_ended = any(_TORCHSERVES_OWN.match(text) for _, text in lives[-1])
    return (lives, []) if is_ended else (lives[:-1], lives[-1])


def find_error(lines: Sequence[tuple[str, str]]) -> str | None:
    """The line that says why, of the (level, text) a worker wrote: the last exception's, else the last on stderr."""
    exceptions: list[str] = []
    is_inside = False
    for _, text in lines:
        if text == _TRACEBACK:
            is_inside = True
        elif is_inside and text and not text[0].isspace():
            is_inside = False
            exceptions += [] if _TORCHSERVES_OWN.match(text) else [text]
    if exceptions:
        return _MODULES.sub("", exceptions[-1])
    warnings = [text for level, text in lines if level in ("WARN", "ERROR") and text and not text[0].isspace()]
    crash = next((text for text in reversed(warnings) if text.startswith("Fatal Python error: ")), None)
    return crash or (warnings[-1] if warnings else None)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
