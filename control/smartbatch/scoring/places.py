"""Folders and files wherever they are: a path, or an address that pyarrow or fsspec opens, which Ray reads as well."""

from __future__ import annotations

import posixpath
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from smartbatch.errors import UsageError

STAGED = "_staged"
"""Beside a file: where it is written before it takes its name."""
_APPEAR_WHOLE = ("s3", "gcs", "abfs", "py::fsspec+s3", "py::fsspec+gs", "py::fsspec+gcs", "py::fsspec+abfs")
"""Kinds of file systems whose files are there once they have been sent as a whole, and where renaming is copying."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file in a folder."""

    name: str
    """Below that folder."""
    size: int
    mtime_ns: int | None


@dataclass(frozen=True, slots=True)
class Place:
    """A file or folder, there or not."""

    filesystem: Any
    """Of pyarrow."""
    path: str
    uri: str
    """As the user gave it, and what lies below."""

    def child(self, name: str) -> Place:
        """What lies below a folder; "" is the place itself."""
        if not name:
            return self
        return Place(self.filesystem, posixpath.join(self.path, name), posixpath.join(self.uri, name))

    def is_folder(self) -> bool:
        """Whether it is one."""
        return bool(self._kind() == "Directory")

    def is_file(self) -> bool:
        """Whether it is one."""
        return bool(self._kind() == "File")

    def files(self, *, below: bool = True) -> list[Found]:
        """A folder's files by name, hidden ones left out, and with `below` those of its folders; none where there is no
        folder.

        Raises:
            OSError: it cannot be looked at.
        """
        from pyarrow import fs

        selector = fs.FileSelector(self.path, allow_not_found=True, recursive=below)
        start = len(self.path.rstrip("/")) + 1
        found = [
            Found(info.path[start:], info.size or 0, info.mtime_ns)
            for info in self.filesystem.get_file_info(selector)
            if info.is_file
        ]
        shown = (one for one in found if not any(part.startswith(".") for part in one.name.split("/")))
        return sorted(shown, key=lambda one: one.name)

    def open(self) -> Any:
        """The file, to be read at any place of it.

        Raises:
            OSError: it cannot be.
        """
        return self.filesystem.open_input_file(self.path)

    def read(self) -> bytes:
        """All of the file.

        Raises:
            OSError: it cannot be read.
        """
        with self.filesystem.open_input_stream(self.path) as stream:
            return bytes(stream.read())

    def write(self, content: bytes | IO[bytes]) -> None:
        """Make it the file's content: it is there whole, or as it was, whenever this process is killed.

        Raises:
            OSError: it cannot be written.
        """
        folder = posixpath.dirname(self.path)
        if self.filesystem.type_name in _APPEAR_WHOLE:
            self._send(self.path, content)
            return
        staged = posixpath.join(folder, STAGED, f"{posixpath.basename(self.path)}.{uuid.uuid4().hex}")
        self.filesystem.create_dir(posixpath.dirname(staged), recursive=True)
        self._send(staged, content)
        self.filesystem.move(staged, self.path)

    def touch(self) -> None:
        """Make an empty file of it, and the folder that it is in."""
        self.filesystem.create_dir(posixpath.dirname(self.path), recursive=True)
        self._send(self.path, b"")

    def remove_folder(self) -> None:
        """Remove the folder and what is in it, if it is there."""
        with suppress(FileNotFoundError):
            self.filesystem.delete_dir(self.path)

    def remove(self) -> None:
        """Remove the file, if it is there."""
        with suppress(FileNotFoundError):
            self.filesystem.delete_file(self.path)

    def make_folder(self) -> None:
        """Make the folder, and those that it is in."""
        self.filesystem.create_dir(self.path, recursive=True)

    def _send(self, path: str, content: bytes | IO[bytes]) -> None:
        with self.filesystem.open_output_stream(path) as stream:
            if isinstance(content, bytes):
                stream.write(content)
            else:
                while piece := content.read(1 << 20):
                    stream.write(piece)

    def _kind(self) -> str:
        return str(self.filesystem.get_file_info(self.path).type.name)


def place_of(given: str) -> Place:
    """What a user named.

    Args:
        given: a path, or an address with a scheme.

    Raises:
        UsageError: nothing that is installed opens such an address.
    """
    import fsspec
    import pyarrow as pa
    from pyarrow import fs

    if "://" not in given:
        return Place(fs.LocalFileSystem(), Path(given).absolute().as_posix(), given.rstrip("/") or "/")
    try:
        filesystem, path = fs.FileSystem.from_uri(given)
        return Place(filesystem, path, given.rstrip("/"))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as not_arrows:
        try:
            other, path = fsspec.core.url_to_fs(given)
        except (ValueError, ImportError) as e:
            raise UsageError(f"{given!r} is nothing that pyarrow ({not_arrows}) or fsspec ({e}) opens") from e
        return Place(fs.PyFileSystem(fs.FSSpecHandler(other)), path, given.rstrip("/"))


def common_suffixes(found: Sequence[Found]) -> str:
    """How the names of some files end, for a message."""
    ends = sorted({posixpath.splitext(one.name)[1] or one.name for one in found})
    return ", ".join(ends[:8]) + (" …" if len(ends) > 8 else "")
