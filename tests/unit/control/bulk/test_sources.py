"""What can be pointed at, and what its rows are."""

from __future__ import annotations

import importlib.util
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from smartbatch.bulk.rows import Source, UnreadableRowError
from smartbatch.bulk.sources import open_source
from smartbatch.errors import UsageError

Open = Callable[..., Source]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def opened(given: str, **options: Any) -> Source:
    return open_source(given, left_out=Path("out.jsonl"), **options)


def bodies(source: Source) -> list[tuple[bytes, str]]:
    return [row.load() for row in source.rows()]


def names(source: Source) -> list[str | None]:
    return [row.name for row in source.rows()]


@pytest.fixture
def folder(here: Path) -> Path:
    found = here / "photos"
    for name in ("b.jpg", "a.PNG", "sub/c.npy", ".hidden.jpg", ".cache/d.jpg", "notes.md"):
        (found / name).parent.mkdir(parents=True, exist_ok=True)
        (found / name).write_bytes(name.encode())
    return found


class TestFiles:
    def test_a_folder_is_all_bodies_below_it_by_name(self, folder: Path) -> None:
        source = opened("photos")
        assert names(source) == ["photos/a.PNG", "photos/b.jpg", "photos/sub/c.npy"]
        assert source.total == 3
        assert bodies(source)[0] == (b"a.PNG", "image/png")
        assert [row.number for row in source.rows()] == [0, 1, 2]

    def test_a_pattern_takes_any_file(self, folder: Path) -> None:
        assert names(opened("photos/*.md")) == ["photos/notes.md"]
        assert names(opened("photos/**/*.npy")) == ["photos/sub/c.npy"]
        assert names(opened(f"{folder}/*.jpg")) == [f"{folder}/b.jpg"]

    def test_one_file(self, folder: Path) -> None:
        assert names(opened("photos/notes.md")) == ["photos/notes.md"]

    def test_the_output_is_no_input(self, here: Path) -> None:
        for name in ("a.json", "out.jsonl", "out.jsonl.partial/x.json"):
            (here / name).parent.mkdir(exist_ok=True)
            (here / name).write_text("{}")
        assert names(opened(".")) == ["a.json"]
        assert names(opened("**/*")) == ["a.json"]

    def test_a_change_makes_it_another_source(self, folder: Path) -> None:
        before = opened("photos").description
        assert opened("photos").description == before
        os.utime(folder / "b.jpg", (1, 1))
        changed = opened("photos").description
        assert changed != before
        (folder / "z.jpg").write_bytes(b"")
        assert opened("photos").description != changed

    def test_a_file_that_is_gone_fails_alone(self, folder: Path) -> None:
        rows = list(opened("photos").rows())
        (folder / "b.jpg").unlink()
        assert rows[0].load()
        with pytest.raises(UnreadableRowError, match=r"photos/b\.jpg: No such file"):
            rows[1].load()

    @pytest.mark.parametrize(
        ("given", "options", "text"),
        [
            ("empty", {}, r"empty holds no file that ends in \.json, \.jpg"),
            ("nothing*.jpg", {}, "FILE must be a file, a folder, a pattern that fits files, or -, got 'nothing"),
            ("empty", {"columns": ["a"]}, r"--column and --paths are for a \.parquet file, got 'empty'"),
            ("empty", {"paths": True}, r"--column and --paths are for a \.parquet"),
        ],
    )
    def test_what_is_refused(self, here: Path, given: str, options: dict[str, Any], text: str) -> None:
        (here / "empty").mkdir()
        with pytest.raises(UsageError, match=text):
            opened(given, **options)


class TestLines:
    @pytest.fixture
    def source(self, here: Path) -> Source:
        (here / "x.npy").write_bytes(b"\x93NUMPY")
        lines = ['{"data": [1]}', "", "  [[1, 2]]  ", '"good film"', "x.npy", '"torn']
        (here / "in.jsonl").write_text("\n".join(lines))
        return opened("in.jsonl")

    def test_json_text_and_paths(self, source: Source) -> None:
        rows = list(source.rows())
        assert [row.load() for row in rows[:4]] == [
            (b'{"data": [1]}', "application/json"),
            (b'{"data": [[1, 2]]}', "application/json"),
            (b'{"text": "good film"}', "application/json"),
            (b"\x93NUMPY", "application/x-npy"),
        ]
        assert [row.name for row in rows] == [None, None, None, "x.npy", None]
        assert source.total is None
        with pytest.raises(UnreadableRowError, match="begins as a JSON text and is none"):
            rows[4].load()

    def test_each_line_has_a_digest(self, source: Source) -> None:
        digests = [row.digest for row in source.rows()]
        assert len(set(digests)) == 5
        assert digests == [row.digest for row in source.rows()]

    def test_a_pipe(self, here: Path) -> None:
        read, write = os.pipe()
        os.write(write, b"[1]\n[2]\n")
        os.close(write)
        stdin = os.dup(0)
        os.dup2(read, 0)
        try:
            assert [body for body, _ in bodies(opened("-"))] == [b'{"data": [1]}', b'{"data": [2]}']
        finally:
            os.dup2(stdin, 0)
            os.close(stdin)
            os.close(read)


class TestTables:
    @pytest.fixture
    def table(self, here: Path) -> Callable[..., str]:
        def write(**columns: Any) -> str:
            pq.write_table(pa.table(columns), here / "in.parquet")
            return "in.parquet"

        return write

    def test_binary_is_the_body(self, table: Callable[..., str]) -> None:
        source = opened(table(image=[b"\xff\xd8", b"x"]))
        assert source.total == 2
        assert bodies(source) == [(b"\xff\xd8", "application/octet-stream"), (b"x", "application/octet-stream")]

    def test_text_is_text_or_a_path(self, table: Callable[..., str], here: Path) -> None:
        (here / "a.png").write_bytes(b"png")
        given = table(id=[1, 2], what=["a.png", "b.png"])
        assert bodies(opened(given, columns=["what"]))[0] == (b'{"text": "a.png"}', "application/json")
        source = opened(given, columns=["what"], paths=True)
        assert names(source) == ["a.png", "b.png"]
        rows = list(source.rows())
        assert rows[0].load() == (b"png", "image/png")
        with pytest.raises(UnreadableRowError, match=r"b\.png: No such file"):
            rows[1].load()

    @pytest.mark.parametrize(
        ("kind", "dtype"), [(pa.list_(pa.float32()), np.float32), (pa.list_(pa.list_(pa.float64(), 2)), np.float64)]
    )
    def test_lists_of_floats_are_arrays(
        self, table: Callable[..., str], kind: pa.DataType, dtype: type[np.generic]
    ) -> None:
        nested = kind != pa.list_(pa.float32())
        value = [[1.5, 2.5]] if nested else [1.5, 2.5]
        (body,) = bodies(opened(table(x=pa.array([value], kind))))
        array = np.load(io.BytesIO(body[0]))
        assert (array.dtype, array.tolist(), body[1]) == (dtype, value, "application/x-npy")

    def test_other_lists_are_json(self, table: Callable[..., str]) -> None:
        assert bodies(opened(table(x=[[1, 2]]))) == [(b'{"data": [1, 2]}', "application/json")]
        ragged = bodies(opened(table(x=[[[1.5], [1.5, 2.5]]])))
        assert ragged == [(b'{"data": [[1.5], [1.5, 2.5]]}', "application/json")]

    def test_pictures_as_hugging_face_has_them(self, table: Callable[..., str], here: Path) -> None:
        (here / "b.jpg").write_bytes(b"jpg")
        source = opened(table(image=[{"bytes": b"x", "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}]))
        assert names(source) == ["a.jpg", "b.jpg"]
        assert [body for body, _ in bodies(source)] == [b"x", b"jpg"]

    def test_several_columns_are_named_inputs(self, table: Callable[..., str]) -> None:
        given = table(ids=[[1, 2]], mask=[[1, 1]], label=[0])
        (body,) = bodies(opened(given, columns=["ids", "mask"]))
        assert json.loads(body[0]) == {"inputs": {"ids": [1, 2], "mask": [1, 1]}}

    def test_nothing_fails_alone(self, table: Callable[..., str]) -> None:
        rows = list(opened(table(x=pa.array([None, b"a"], pa.binary()))).rows())
        with pytest.raises(UnreadableRowError, match="column x is null"):
            rows[0].load()
        assert rows[1].load()[0] == b"a"

    def test_rows_of_many_groups_keep_their_order(self, here: Path) -> None:
        pq.write_table(pa.table({"x": [str(n).encode() for n in range(100)]}), here / "in.parquet", row_group_size=7)
        source = opened("in.parquet")
        assert [body for body, _ in bodies(source)] == [str(n).encode() for n in range(100)]
        assert [row.number for row in source.rows()] == list(range(100))

    def test_what_is_refused(self, table: Callable[..., str], here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        given = table(a=[1], b=[2])
        with pytest.raises(UsageError, match=r"--column must say which column of in\.parquet .* it has a, b"):
            opened(given)
        with pytest.raises(UsageError, match="which has a, b; got 'c'"):
            opened(given, columns=["c"])
        (here / "no.parquet").write_bytes(b"nothing of the kind")
        with pytest.raises(UsageError, match=r"no\.parquet is no Parquet file"):
            opened("no.parquet")
        there = importlib.util.find_spec
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "pyarrow" else there(name))
        with pytest.raises(UsageError, match=r"needs pyarrow: pip install 'smartbatch\[bulk\]'"):
            opened(given)
