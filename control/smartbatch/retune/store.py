"""Copies of an archive in the model store that differ in their version alone.

TorchServe takes a model's version from its manifest only, and fixes batch size and delay when a version is
registered. So each retune registers a copy, as an unpacked folder of hard links beside the archive it came from, marked
as ours, and removes it with the version it served.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from smartbatch_worker.contract import environment

from smartbatch.errors import UsageError
from smartbatch.model_config import CONFIG_FILE, changed_config
from smartbatch.remote.process_identity import live_process
from smartbatch.retune.model_lock import locked

_MANIFEST = Path("MAR-INF") / "MANIFEST.json"
_MARKER = Path("MAR-INF") / "smartbatch-retune.json"
_SUFFIX = re.compile(r"-r\d+$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Marker:
    """Whose copy it is, and what it replaced."""

    model: str
    management_url: str
    origin: str
    """The archive that was registered first."""
    replaces: str
    """The version this one takes over from; "" once that is gone."""
    host: str
    server_pid: int | None
    """Of a server started here: when it is gone, so is the need for the copy."""
    server_birth: str | None = None
    """When that process started, so that a later one of its number is not taken for it."""


class RetuneStore:
    """The model store of one server, as seen from here.

    Raises:
        UsageError: it cannot be written; the message says what to do.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.is_dir():
            raise UsageError(f"--model-store must be the server's model store, got {str(folder)!r}: no such folder")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UsageError(
                f"cannot write the model store {folder}. Run this command where it can be written (on the server's "
                "machine, as its user, or in its container), or by hand: unpack the archive into a folder of the "
                f"model store, give its {_MANIFEST} another modelVersion, register that folder with the new batch "
                "size, set it as default, and delete the old version once its queue is empty"
            )

    @contextmanager
    def lock(self, timeout_s: float) -> Iterator[None]:
        """One change of models at a time per model store; leaves no file behind.

        Raises:
            DeadlineError: another change took longer than `timeout_s`.
        """
        with locked(self.folder, timeout_s):
            yield

    def copy(self, url: str, version: str, marker: Marker) -> Path:
        """The archive registered as `url`, as a folder in the store that says it is `version`.

        Raises:
            UsageError: the archive is not in the store any more, or is of a kind TorchServe alone can read.
        """
        source = self.find(url)
        name = re.sub(r"[^\w.-]", "_", marker.model)
        staged = Path(tempfile.mkdtemp(prefix=f"{name}.retuned-", dir=self.folder))
        try:
            if source.is_dir():
                shutil.copytree(_content(source), staged, copy_function=_link, dirs_exist_ok=True, symlinks=True)
            else:
                with zipfile.ZipFile(source) as archive:
                    archive.extractall(staged)
            _set_version(staged / _MANIFEST, version)
            (staged / _MARKER).unlink(missing_ok=True)  # a hard link: the original's must not change with it
            (staged / _MARKER).write_text(json.dumps(asdict(marker)), encoding="utf-8")
            staged.chmod(0o755)  # mkdtemp's 0700 would shut out a server of another user
        except BaseException:
            self.remove(staged)
            raise
        return staged

    def has_replaced(self, folder: Path) -> None:
        """Note in a copy that what it replaces is gone: a version of that name is somebody else's from now on."""
        marker = _read_marker(folder)
        if marker is not None:
            settled = replace(marker, replaces="")
            (folder / _MARKER).write_text(json.dumps(asdict(settled)), encoding="utf-8")

    def forget_measurements(self, folder: Path) -> None:
        """Have a copy's workers measure again; a hard link goes, the original's file stays."""
        marker = folder / environment.MEASURED_SINCE_FILE
        marker.unlink(missing_ok=True)
        marker.touch()

    def configure(self, folder: Path, overrides: Mapping[str, str]) -> None:
        """Set keys of a copy's model-config.yaml; the original's stays.

        Raises:
            UsageError: the archive has none, or one that does not take them.
        """
        path = folder / CONFIG_FILE
        if not path.is_file():
            raise UsageError(f"the archive has no {CONFIG_FILE}, so there is nothing to set in it")
        text = changed_config(path.read_text(encoding="utf-8"), overrides)
        path.unlink()  # it may be a hard link to the original's
        path.write_text(text, encoding="utf-8")

    def find(self, url: str) -> Path:
        """The archive or folder in the store that was registered as `url`.

        Raises:
            UsageError: it is not there, or neither a .mar nor a folder.
        """
        name = Path(urlsplit(url).path if "://" in url else url).name
        path = self.folder / name
        if path.is_dir() or (path.is_file() and zipfile.is_zipfile(path)):
            return path
        what = "is no .mar" if path.exists() else "is not there any more"
        raise UsageError(
            f"the model was registered from {url!r}, but {path} {what}: put the archive back into the model store, or "
            "name the server's own by --model-store"
        )

    def marker(self, url: str) -> Marker | None:
        """The marker of a copy made here; None for anything else."""
        return _read_marker(self.folder / Path(url).name)

    def copies(self) -> Iterator[tuple[Path, Marker]]:
        """Every copy in the store."""
        for path in self.folder.iterdir():
            marker = _read_marker(path)
            if marker is not None:
                yield path, marker

    def remove(self, folder: Path) -> None:
        """Remove a copy."""
        shutil.rmtree(folder, ignore_errors=True)


def next_version(version: str, taken: Sequence[str]) -> str:
    """1.0 becomes 1.0-r1; numbers are used again, so that metrics labelled by version do not grow without bound."""
    base = _SUFFIX.sub("", version)
    number = 1
    while f"{base}-r{number}" in taken:
        number += 1
    return f"{base}-r{number}"


def remove_copies_of_server(model_store: Path, server_pid: int, server_birth: str) -> None:
    """Remove what retunes of a server that is gone left in its model store: the versions are gone with it.

    Not those of a living one that got its number; copies made before births were noted are taken for the dead one's.
    """
    if model_store.is_dir() and os.access(model_store, os.W_OK):
        store = RetuneStore(model_store)
        for folder, marker in list(store.copies()):
            is_its = marker.server_pid == server_pid and marker.server_birth in (server_birth, None)
            if marker.host == socket.gethostname() and is_its:
                store.remove(folder)


def is_orphan(marker: Marker) -> bool:
    """Whether the copy's server was started here and is gone."""
    if marker.host != socket.gethostname() or marker.server_pid is None:
        return False
    if marker.server_birth is None:  # of a copy made before births were noted
        return not psutil.pid_exists(marker.server_pid)
    return live_process(marker.server_pid, marker.server_birth) is None


def _content(source: Path) -> Path:
    """TorchServe takes a folder that holds nothing but another folder for that one."""
    entries = list(source.iterdir())
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else source


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)


def _set_version(path: Path, version: str) -> None:
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        manifest["model"]["modelVersion"] = version
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"the archive's {_MANIFEST} cannot be read: {error}") from error
    path.unlink()  # it may be a hard link to the original's
    path.write_text(json.dumps(manifest, indent=2), encoding="utf-8")


def _read_marker(folder: Path) -> Marker | None:
    try:
        return Marker(**json.loads((folder / _MARKER).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
