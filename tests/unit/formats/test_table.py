"""formats.FORMATS: what is recognised as what, and that every row has all that belongs to a format.

CONTRIBUTING.md's first recipe lists the files; a row that lacks one fails here and is told which.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from smartbatch_load.load.payloads import FORMATS as PAYLOADS
from smartbatch_worker import formats
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.formats import FORMATS, Format

from fuzz.seeds import seeds
from fuzz.targets import target_name
from tests.unit.formats.bodies import CHW, image, npy

ROOT = Path(__file__).parents[3]
DOCUMENTED = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")

NOT_IN_LOADTEST = {
    "png": "jpeg stands for all pictures; `--body FILE.png` sends one",
    "webp": "jpeg stands for all pictures; `--body FILE.webp` sends one",
    "npz": "only models with named inputs take it; `--body FILE.npz` sends one",
    "safetensors": "the numbers of npy-float behind another header; `--body FILE.safetensors` sends one",
    "wav": "a sound, and no picture; `--body FILE.wav` sends one",
    "flac": "a sound, and no picture; `--body FILE.flac` sends one",
}
"""Formats that no Locust user sends, and why."""


def rows_of_documentation() -> Iterator[tuple[str, str]]:
    """Of the table of bodies, what a body is and what it is recognised by."""
    table = DOCUMENTED.partition("## Bodies")[2].partition("\n\n## ")[0]
    for line in table.splitlines():
        if line.startswith("| ") and not line.startswith("| ---"):
            body, recognised_by, *_ = line.strip("|").split("|")
            yield body, recognised_by


def is_documented(row: Format) -> bool:
    """Whether a row of the page names the format, and its usual Content-Type where that is how it is recognised."""
    return any(
        re.search(rf"\b{re.escape(row.name)}\b", body, re.IGNORECASE) and all(t in by for t in row.media_types[:1])
        for body, by in rows_of_documentation()
    )


def file_of_tests(row: Format) -> str:
    """Mirrors the reader's own file, or the folder it is in."""
    room = (row.read or row.read_request).__module__.removeprefix("smartbatch_worker.formats.").partition(".")[0]
    return f"tests/unit/formats/test_{room}.py"


def missing(row: Format) -> list[str]:
    """What belongs to a format and this one has not, as CONTRIBUTING.md names it."""
    bodies = seeds().get(target_name(row), [])
    content_type = "".join(row.media_types[:1])
    found = {
        "docs/formats.md: a row in the table of bodies": is_documented(row),
        file_of_tests(row): (ROOT / file_of_tests(row)).is_file(),
        f"fuzz/seeds.py: bodies of target {target_name(row)!r} that are recognised as it": any(
            formats.recognise(body, content_type) is row for body in bodies
        ),
        "loadtest/load/payloads.py: a row in FORMATS, or a reason here why there is none": row.name in PAYLOADS
        or row.name in NOT_IN_LOADTEST,
    }
    return [part for part, is_there in found.items() if not is_there]


@pytest.mark.parametrize("row", FORMATS, ids=lambda row: row.name)
def test_every_row_has_all_that_belongs_to_a_format(row: Format) -> None:
    assert not missing(row), f"{row.name} lacks " + "; ".join(missing(row))


def test_a_new_row_is_told_what_it_lacks() -> None:
    def read(body: bytes | bytearray, config: WorkerConfig) -> torch.Tensor:
        return torch.frombuffer(bytearray(body), dtype=torch.float32)

    read.__module__ = "smartbatch_worker.formats.nonesuch"
    row = Format(name="nonesuch", told="nonesuch", read=read, media_types=("application/x-nonesuch",))
    files = [part.partition(":")[0] for part in missing(row)]
    assert files == [
        "docs/formats.md",
        "tests/unit/formats/test_nonesuch.py",
        "fuzz/seeds.py",
        "loadtest/load/payloads.py",
    ]


def test_every_reader_has_its_row() -> None:
    readers = {row.read.__module__ for row in FORMATS if row.read is not None}
    for path in Path(formats.__file__).parent.glob("*.py"):
        if re.search(r"^def read\(", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert f"smartbatch_worker.formats.{path.stem}" in readers, f"{path.name} has a reader, FORMATS has no row"


def test_no_two_rows_claim_a_name_or_a_type() -> None:
    for claimed in ([row.name for row in FORMATS], [kind for row in FORMATS for kind in row.media_types]):
        assert len(set(claimed)) == len(claimed)


@pytest.mark.parametrize("row", FORMATS, ids=lambda row: row.name)
def test_every_row_can_be_recognised(row: Format) -> None:
    assert row.begins or row.media_types, f"{row.name} has neither first bytes nor a Content-Type"
    assert (row.read is None) != (row.read_request is None), f"{row.name} must have one reader"


def test_a_reason_for_no_locust_user_is_kept_only_where_there_is_none() -> None:
    names = {row.name for row in FORMATS}
    assert set(NOT_IN_LOADTEST) <= names - set(PAYLOADS)


def test_the_message_lists_what_is_accepted() -> None:
    """New rows come behind these."""
    assert formats.ACCEPTED.startswith(
        'JSON {"data": [...]}, JPEG, PNG, WebP, .npy, application/x-safetensors (tensor "data"), '
        'application/msgpack {"data": ...}'
    )


@pytest.mark.parametrize(
    ("body", "content_type", "name"),
    [
        (image("JPEG"), "application/json", "jpeg"),  # first bytes beat the Content-Type
        (image("PNG"), "application/msgpack", "png"),
        (image("WEBP"), "", "webp"),
        (npy(CHW), "application/x-safetensors", "npy"),
        (b'{"data": [1]}', "application/msgpack", "msgpack"),  # the Content-Type beats the looks
        (b"[1]", "application/x-safetensors; x=1", "safetensors"),
        (b"no JSON", "text/json ;charset=utf-8", "json"),
        (b" \n\t[1]", "", "json"),
        (b" \n\t{}", "image/jpeg", "json"),
        (b" " * 64 + b"{}", "", None),
        (b"\x93NUMP", "application/x-npy", None),
        (b"RIFF....WAVE", "image/webp", "wav"),
        (b"RIFF....AVI ", "", None),
        (b"fLaC", "audio/wav", "flac"),
    ],
)
def test_first_bytes_then_content_type_then_looks(body: bytes, content_type: str, name: str | None) -> None:
    for kind in (bytes, bytearray):
        found = formats.recognise(kind(body), content_type)
        assert (found.name if found else None) == name
