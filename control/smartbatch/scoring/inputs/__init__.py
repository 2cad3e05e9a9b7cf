"""What can be scored: files of a folder, rows of Parquet, samples of WebDataset's shards; `KINDS` is the table.

Where the command runs, a kind looks at what a folder holds and plans its parts; where an actor does, it reads one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import PurePosixPath
from typing import Protocol

from smartbatch.bulk.rows import Row
from smartbatch.errors import UsageError
from smartbatch.scoring.inputs.files import FileInput
from smartbatch.scoring.inputs.shards import ShardInput
from smartbatch.scoring.inputs.tables import TableInput
from smartbatch.scoring.parts import Part
from smartbatch.scoring.places import Found, Place, common_suffixes, place_of


class Kind(Protocol):
    """One kind of input; its constructor takes the place, columns and `paths`."""

    def plan(self, found: Sequence[Found], part_rows: int) -> list[Part]:
        """Cut what was found into parts; raises UsageError."""

    def read(self, part: Part) -> Iterator[Row]:
        """A part's rows, numbered from 0."""

    @property
    def columns(self) -> Sequence[str]:
        """What of a row is the input, once it is known."""


KINDS: dict[str, type[FileInput] | type[TableInput] | type[ShardInput]] = {
    "table": TableInput,
    "shards": ShardInput,
    "files": FileInput,
}
"""By name, in the order in which a folder is asked for their files; each has the ends of their names in `SUFFIXES`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InputSettings:
    """What is read, and how; what an actor is told."""

    given: str
    columns: Sequence[str] = ()
    paths: bool = False
    """Texts of a table are paths."""
    kind: str = ""
    """Known once it was planned."""


@dataclass(frozen=True, slots=True)
class Planned:
    """An input that was looked at."""

    settings: InputSettings
    parts: list[Part]
    description: Mapping[str, object]
    """What would make it another one, as JSON."""

    @property
    def total(self) -> int | None:
        """How many rows it has; None where nobody knows before the end."""
        rows = [part.rows for part in self.parts if part.rows is not None]
        return sum(rows) if len(rows) == len(self.parts) else None


def open_input(settings: InputSettings) -> Kind:
    """An input that was planned, to be read."""
    return KINDS[settings.kind](place_of(settings.given), settings.columns, paths=settings.paths)


def plan(settings: InputSettings, part_rows: int, left_out: str) -> Planned:
    """Look at an input, and cut it into parts.

    Args:
        settings: what the user gave.
        part_rows: rows of a part, as near as its files allow.
        left_out: the output, which may lie in the same folder.

    Raises:
        UsageError: nothing is there that can be read, or the options do not fit it.
        OSError: it cannot be looked at.
    """
    place = place_of(settings.given)
    found = _found(place, place_of(left_out))
    name, chosen = _choose(settings, found)
    if settings.paths and name != "table":
        raise UsageError(f"--paths is for Parquet, whose texts may be paths; {settings.given!r} holds {name}")
    input_ = KINDS[name](place, settings.columns, paths=settings.paths)
    parts = input_.plan(chosen, part_rows)
    digest = blake2b(digest_size=16)
    for one in chosen:
        digest.update(f"{one.name}\0{one.size}\0{one.mtime_ns}\n".encode(errors="surrogateescape"))
    settings = replace(settings, kind=name, columns=tuple(input_.columns))
    return Planned(
        settings,
        parts,
        {
            "kind": name,
            "given": settings.given,
            "columns": list(settings.columns),
            "paths": settings.paths,
            "files": len(chosen),
            "digest": digest.hexdigest(),
        },
    )


def _found(place: Place, left_out: Place) -> list[Found]:
    """The files of a folder, or the one file that is named, whose name below itself is none."""
    if place.is_file():
        info = place.filesystem.get_file_info(place.path)
        return [Found("", info.size or 0, info.mtime_ns)]
    if not place.is_folder():
        raise UsageError(f"INPUT must be a folder or a file that is there, got {place.uri!r}")
    beside = left_out.path.rstrip("/") + "/"
    return [one for one in place.files() if not place.child(one.name).path.startswith(beside)]


def _choose(settings: InputSettings, found: Sequence[Found]) -> tuple[str, list[Found]]:
    """The kind, and those of the files that are of it."""
    if len(found) == 1 and not found[0].name:
        suffix = PurePosixPath(settings.given).suffix.lower()
        name = next((name for name, kind in KINDS.items() if suffix in kind.SUFFIXES), "files")
        return name, list(found)
    by_kind = {
        name: [one for one in found if PurePosixPath(one.name).suffix.lower() in kind.SUFFIXES]
        for name, kind in KINDS.items()
    }
    there = {name: files for name, files in by_kind.items() if files}
    if not there:
        has = f"; it holds {common_suffixes(found)}" if found else ", and it is empty"
        accepted = ", ".join(suffix for kind in KINDS.values() for suffix in kind.SUFFIXES)
        raise UsageError(f"{settings.given} must hold files that end in one of {accepted}{has}")
    if len(there) > 1:
        held = " and ".join(f"{len(files)} of {name} ({common_suffixes(files)})" for name, files in there.items())
        raise UsageError(f"{settings.given} must hold files of one kind, and holds {held}: name a folder of one kind")
    return next(iter(there.items()))
