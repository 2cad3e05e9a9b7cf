"""Records are read while they are written; the report and the generator's health are made from them."""

from __future__ import annotations

from pathlib import Path

import pytest
from smartbatch_load.account.generator import judge_generator
from smartbatch_load.account.progress import live_figures
from smartbatch_load.account.records import RecordReader, Request, Tick
from smartbatch_load.draw.report import Page, Table, number, percent, render

HEADER = "end_unix_s,latency_s,ok,status,batch_size,source,error\n"


def test_a_row_still_being_written_waits(tmp_path: Path) -> None:
    path = tmp_path / "requests-7.csv"
    reader = RecordReader(tmp_path)
    path.write_text(HEADER + "100.5,0.5,1,200,8,npy,\n101.0,0.2,0,5", encoding="utf-8")
    reader.read()
    assert reader.requests == [Request(100.5, 0.5, True, 200, 8, "npy", "")]
    with path.open("a", encoding="utf-8") as file:
        file.write('03,0,npy,"HTTP 503: busy, later"\n')
    reader.read()
    reader.read()
    assert reader.requests[1:] == [Request(101.0, 0.2, False, 503, 0, "npy", "HTTP 503: busy, later")]
    assert reader.requests[0].start_unix_s == 100.0


def test_files_of_all_processes_are_read(tmp_path: Path) -> None:
    for pid in (1, 2):
        (tmp_path / f"ticks-{pid}.csv").write_text(f"unix_s,users,lag_s\n5.0,{pid},0.01\n", encoding="utf-8")
    reader = RecordReader(tmp_path)
    reader.read()
    assert reader.ticks == [Tick(5.0, "1", 1, 0.01), Tick(5.0, "2", 2, 0.01)]


def test_an_empty_folder_is_an_empty_run(tmp_path: Path) -> None:
    reader = RecordReader(tmp_path)
    reader.read()
    assert (reader.requests, reader.ticks) == ([], [])


def test_the_bar_shows_the_last_seconds() -> None:
    requests = [Request(float(t), 0.1 if t > 90 else 5.0, True, 200, 1, "npy", "") for t in range(101)]
    assert live_figures(requests, 100.0) == "   1.3 req/s  p95   100 ms"
    assert live_figures([], 100.0) == "   0.0 req/s  p95        –"


def test_a_generator_with_time_to_spare_is_not_warned_of() -> None:
    health = judge_generator([[50, 95], [40, 60], []], [Tick(1, "a", 5, 0.01), Tick(1, "b", 5, 0.02)])
    assert health.warning is None
    assert (health.processes, health.cpu_mean_percent, health.cpu_max_percent) == (2, 77.5, 95)


@pytest.mark.parametrize(
    ("cpu", "lag_s", "says"), [([[95.0], [96.0]], 0.01, "saturated for 2 s"), ([[30.0]], 0.4, "starved of CPU")]
)
def test_a_generator_that_was_the_bottleneck_is_warned_of(cpu: list[list[float]], lag_s: float, says: str) -> None:
    assert says in (judge_generator(cpu, [Tick(1, "a", 5, lag_s)]).warning or "")


def test_idle_ticks_say_nothing_about_lag() -> None:
    assert judge_generator([], [Tick(1, "a", 0, 9.0)]).lag_p95_s is None


def test_a_page_needs_no_other_file_and_escapes_what_it_is_told(tmp_path: Path) -> None:
    picture = tmp_path / "x.png"
    picture.write_bytes(b"\x89PNG")
    page = render(
        Page(
            title="a < b",
            subtitle="s",
            warnings=["<script>alert(1)</script>"],
            pictures={'say "x"': picture},
            tables=[Table(title="t", columns=("c",), rows=[("1 & 2",)]), Table(title="u", rows=[("k", "v")])],
        )
    )
    assert "<title>a &lt; b</title>" in page
    assert "<script>" not in page
    assert 'alt="say &quot;x&quot;" src="data:image/png;base64,iVBORw=="' in page
    assert "<td>1 &amp; 2</td>" in page
    assert '<th scope="row">k</th><td>v</td>' in page


def test_figures_are_written_for_people() -> None:
    assert [number(v) for v in (None, 0, 0.123456, 12.34, 1234.5)] == ["–", "0", "0.123", "12.3", "1234"]
    assert number(1.5, unit="s") == "1.5 s"
    assert (percent(0.00123), percent(None)) == ("0.12 %", "–")
