"""WebDataset: a row a sample, which is some files of a tar that are named alike up to their first dot."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence

from smartbatch_worker.contract import media_types

from smartbatch.bulk.rows import Row, UnreadableRowError
from smartbatch.errors import UsageError
from smartbatch.scoring.parts import Part
from smartbatch.scoring.places import Found, Place


class ShardInput:
    """All .tar files below a folder, or one; the one column is the end of the file that is a sample's input."""

    SUFFIXES = (".tar",)

    def __init__(self, place: Place, columns: Sequence[str], *, paths: bool) -> None:
        if len(columns) > 1:
            raise UsageError(f"of a sample, one file is the input: --column once; got {', '.join(columns)}")
        self._place = place
        self.columns = tuple(name.lstrip(".").lower() for name in columns)

    def plan(self, found: Sequence[Found], part_rows: int) -> list[Part]:
        """A shard a part: a tar is read from its beginning."""
        if not self.columns:
            self.columns = (self._sole_input(found[0].name),)
        return [Part(number, (one.name,)) for number, one in enumerate(found)]

    def read(self, part: Part) -> Iterator[Row]:
        """One a sample."""
        (wanted,) = self.columns
        place = self._place.child(part.files[0])
        for number, (key, members) in enumerate(_samples(place)):
            body = members.get(wanted)
            yield Row(number, f"{place.uri}#{key}", _Sample(wanted, body, tuple(members)))

    def _sole_input(self, name: str) -> str:
        """What of the first sample can only be the input."""
        place = self._place.child(name)
        try:
            _, members = next(_samples(place), ("", {}))
        except tarfile.TarError as e:
            raise UsageError(f"{place.uri} is no tar that can be read: {e}") from e
        bodies = [end for end in members if _content_type(end) is not None]
        if len(bodies) != 1:
            has = ", ".join(members) or "no file"
            raise UsageError(
                f"--column must say which file of a sample is the input; the first of {place.uri} has {has}"
            )
        return bodies[0]


class _Sample:
    """A sample's input, as a row loads it."""

    __slots__ = ("_body", "_has", "_wanted")

    def __init__(self, wanted: str, body: bytes | None, has: Sequence[str]) -> None:
        self._wanted, self._body, self._has = wanted, body, has

    def __call__(self) -> tuple[bytes, str]:
        if self._body is None:
            raise UnreadableRowError(f"the sample has no .{self._wanted}; it has {', '.join(self._has)}")
        return self._body, _content_type(self._wanted) or media_types.ANY


def _samples(place: Place) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key and files of each sample, by what follows the first dot of their names, in the order of the tar."""
    key, members = None, dict[str, bytes]()
    with place.open() as stream, tarfile.open(fileobj=stream, mode="r|*") as tar:
        for member in tar:
            folder, slash, name = member.name.rpartition("/")
            stem, dot, end = name.partition(".")
            content = tar.extractfile(member) if member.isfile() and stem and dot else None
            if content is None:
                continue
            if key is not None and key != folder + slash + stem:
                yield key, members
                members = {}
            key = folder + slash + stem
            members[end.lower()] = content.read()
    if key is not None:
        yield key, members


def _content_type(end: str) -> str | None:
    return media_types.BY_SUFFIX.get("." + end.rpartition(".")[2])
