"""What a folder holds, how it is cut into parts, and what the rows of each are."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from smartbatch.bulk.rows import UnreadableRowError
from smartbatch.errors import UsageError
from smartbatch.scoring.inputs import InputSettings, Planned, open_input, plan
from smartbatch.scoring.parts import Part


def planned(given: Path | str, part_rows: int = 3, out: str = "out", **options: Any) -> Planned:
    return plan(InputSettings(given=str(given), **options), part_rows, out)


def bodies(found: Planned) -> list[list[bytes]]:
    """Of each part's rows."""
    input_ = open_input(found.settings)
    return [[row.load()[0] for row in input_.read(part)] for part in found.parts]


def names(found: Planned) -> list[str | None]:
    input_ = open_input(found.settings)
    return [row.name for part in found.parts for row in input_.read(part)]


def write_shard(path: Path, samples: Sequence[Mapping[str, bytes]]) -> None:
    """Sample n is files n.<end>."""
    with tarfile.open(path, "w") as tar:
        for number, sample in enumerate(samples):
            for end, content in sample.items():
                info = tarfile.TarInfo(f"photos/{number:03}.{end}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def test_a_part_survives_being_sent() -> None:
    part = Part(7, ("a", "b"), 2, 5, (1, 2))
    assert Part.from_json(part.to_json()) == part
    assert part.name == "part-000007.parquet"


class TestFiles:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for name in ("d.npy", "a.PNG", "sub/b.jpg", "c.npy", "e.npy", ".hidden.jpg", ".cache/f.jpg", "notes.md"):
            (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / name).write_bytes(name.encode())
        return tmp_path / "in"

    def test_parts_are_files_in_order(self, folder: Path) -> None:
        found = planned(folder)
        assert bodies(found) == [[b"a.PNG", b"c.npy", b"d.npy"], [b"e.npy", b"sub/b.jpg"]]
        assert names(found)[-1] == f"{folder}/sub/b.jpg"
        assert (found.total, [part.number for part in found.parts]) == (5, [0, 1])
        assert planned(folder) == found, "the same parts each time"

    def test_a_change_makes_it_another_input(self, folder: Path) -> None:
        before = planned(folder).description
        (folder / "c.npy").write_bytes(b"longer than before")
        assert planned(folder).description != before

    def test_the_output_is_no_input(self, folder: Path) -> None:
        assert planned(folder, out=str(folder / "sub")).total == 4

    def test_one_file(self, folder: Path) -> None:
        found = planned(folder / "notes.md")
        assert bodies(found) == [[b"notes.md"]]
        assert names(found) == [f"{folder}/notes.md"]

    def test_what_is_gone_fails_alone(self, folder: Path) -> None:
        found = planned(folder)
        (folder / "c.npy").unlink()
        rows = list(open_input(found.settings).read(found.parts[0]))
        with pytest.raises(UnreadableRowError, match=r"c\.npy: "):
            rows[1].load()
        assert rows[2].load() == (b"d.npy", "application/x-npy")

    def test_another_file_system(self) -> None:
        import fsspec

        memory = fsspec.filesystem("memory")
        memory.pipe({"/photos/a.jpg": b"a", "/photos/b.jpg": b"b"})
        found = planned("memory://photos")
        assert bodies(found) == [[b"a", b"b"]]
        assert names(found) == ["memory://photos/a.jpg", "memory://photos/b.jpg"]


class TestTables:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """Two files, of 10 and 4 rows, in groups of 2 and of 4."""
        (tmp_path / "in").mkdir()
        for name, start, count, group in (("a", 0, 10, 2), ("b", 10, 4, 4)):
            numbers = range(start, start + count)
            table = pa.table({"id": list(numbers), "x": [str(n).encode() for n in numbers]})
            pq.write_table(table, tmp_path / "in" / f"{name}.parquet", row_group_size=group)
        return tmp_path / "in"

    def test_parts_are_row_groups(self, folder: Path) -> None:
        found = planned(folder, columns=["x"])
        assert [part.rows for part in found.parts] == [4, 4, 2, 4]
        assert bodies(found) == [
            [b"0", b"1", b"2", b"3"],
            [b"4", b"5", b"6", b"7"],
            [b"8", b"9"],
            [b"10", b"11", b"12", b"13"],
        ]
        assert names(found)[5] == f"{folder}/a.parquet#5"
        assert names(found)[-1] == f"{folder}/b.parquet#3"
        assert found.total == 14

    def test_one_file(self, folder: Path) -> None:
        found = planned(folder / "b.parquet", columns=["x"])
        assert names(found) == [f"{folder}/b.parquet#{n}" for n in range(4)]

    def test_paths_wherever_they_are(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(b"png")
        pq.write_table(pa.table({"x": [f"{tmp_path}/a.png", "nothing.png"]}), tmp_path / "in.parquet")
        found = planned(tmp_path / "in.parquet", paths=True)
        first, second = open_input(found.settings).read(found.parts[0])
        assert (first.name, first.load()) == (f"{tmp_path}/a.png", (b"png", "image/png"))
        with pytest.raises(UnreadableRowError, match=r"nothing\.png: "):
            second.load()

    def test_what_is_refused(self, folder: Path) -> None:
        with pytest.raises(
            UsageError, match=r"--column must say which column of .*a\.parquet holds the inputs; .* id, x"
        ):
            planned(folder)
        with pytest.raises(UsageError, match="which has id, x; got 'y'"):
            planned(folder, columns=["y"])
        pq.write_table(pa.table({"other": [1]}), folder / "c.parquet")
        with pytest.raises(UsageError, match=r"column of .*c\.parquet, which has other; got 'x'"):
            planned(folder, columns=["x"])
        (folder / "c.parquet").write_bytes(b"nothing of the kind")
        with pytest.raises(UsageError, match=r"c\.parquet is no Parquet file"):
            planned(folder, columns=["x"])
        pq.write_table(pa.table({"x": pa.array([], pa.binary())}), folder.parent / "empty.parquet")
        with pytest.raises(UsageError, match=r"empty\.parquet has no rows"):
            planned(folder.parent / "empty.parquet")


class TestShards:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "in").mkdir()
        write_shard(tmp_path / "in" / "0.tar", [{"jpg": b"a", "cls": b"1"}, {"JPG": b"b", "cls": b"2"}])
        write_shard(tmp_path / "in" / "1.tar", [{"cls": b"3"}, {"seg.png": b"mask", "jpg": b"d"}])
        return tmp_path / "in"

    def test_a_shard_is_a_part_and_a_sample_a_row(self, folder: Path) -> None:
        found = planned(folder)
        assert found.settings.columns == ("jpg",), "the one that can be an input"
        assert found.total is None
        assert names(found)[:2] == [f"{folder}/0.tar#photos/000", f"{folder}/0.tar#photos/001"]
        input_ = open_input(found.settings)
        first, second = (list(input_.read(part)) for part in found.parts)
        assert [row.load() for row in first] == [(b"a", "image/jpeg"), (b"b", "image/jpeg")]
        assert [row.number for row in second] == [0, 1]
        with pytest.raises(UnreadableRowError, match=r"the sample has no \.jpg; it has cls"):
            second[0].load()
        assert second[1].load()[0] == b"d"

    def test_the_column_is_an_end(self, folder: Path) -> None:
        found = planned(folder / "1.tar", columns=[".seg.png"])
        (_, row) = open_input(found.settings).read(found.parts[0])
        assert row.load() == (b"mask", "image/png")

    def test_what_is_refused(self, folder: Path) -> None:
        with pytest.raises(UsageError, match="--column once; got jpg, cls"):
            planned(folder, columns=["jpg", "cls"])
        write_shard(folder / "0.tar", [{"jpg": b"a", "json": b"{}"}])
        with pytest.raises(
            UsageError, match=r"which file of a sample is the input; the first of .*0\.tar has jpg, json"
        ):
            planned(folder)
        (folder / "0.tar").write_bytes(b"nothing of the kind" * 100)
        with pytest.raises(UsageError, match=r"0\.tar is no tar"):
            planned(folder)

    def test_a_shard_cut_short_is_no_end(self, folder: Path) -> None:
        write_shard(folder / "0.tar", [{"jpg": b"x" * 5000}, {"jpg": b"y" * 5000}])
        found = planned(folder)
        whole = (folder / "0.tar").read_bytes()
        (folder / "0.tar").write_bytes(whole[:8000])
        with pytest.raises(tarfile.TarError):
            list(open_input(found.settings).read(found.parts[0]))


def test_what_is_refused_of_any(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="INPUT must be a folder or a file that is there"):
        planned(tmp_path / "nothing")
    with pytest.raises(
        UsageError, match=r"must hold files that end in one of \.parquet, \.tar, \.json.*, and it is empty"
    ):
        planned(tmp_path)
    (tmp_path / "a.md").touch()
    with pytest.raises(UsageError, match=r"it holds \.md"):
        planned(tmp_path)
    (tmp_path / "a.jpg").touch()
    (tmp_path / "b.tar").touch()
    with pytest.raises(UsageError, match=r"holds 1 of shards \(\.tar\) and 1 of files \(\.jpg\): name a folder of one"):
        planned(tmp_path)
    (tmp_path / "b.tar").unlink()
    with pytest.raises(UsageError, match=r"--paths is for Parquet"):
        planned(tmp_path, paths=True)
    with pytest.raises(UsageError, match=r"--column is for Parquet and for shards"):
        planned(tmp_path, columns=["x"])
    with pytest.raises(UsageError, match=r"'nope://x' is nothing that pyarrow .* or fsspec .* opens"):
        planned("nope://x")
