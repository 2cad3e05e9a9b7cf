"""What requests a tuning is for, when they come at moments of their own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from smartbatch.doctor.probe import OpenProbe, Probe
from smartbatch.errors import UsageError
from smartbatch.remote.endpoints import Endpoints
from smartbatch.simulation.load import OpenLoop
from smartbatch.tuning.arrivals import by_chance, from_trace

from tests.unit.control.client.scripted import OK, Scripted


@pytest.mark.parametrize("rate", [0.5, 100, 2000])
def test_by_chance_they_are_as_many_a_second_as_was_said(rate: float) -> None:
    arrivals = by_chance(rate)
    assert arrivals.requests_per_s == pytest.approx(rate)
    assert arrivals.times_s[0] == 0
    gaps = [b - a for a, b in zip(arrivals.times_s, arrivals.times_s[1:], strict=False)]
    assert min(gaps) >= 0
    assert max(gaps) > 3 / rate, "some stay away for long"


@pytest.mark.parametrize("heading", ["", "time,model\n", "\n"])
def test_a_trace_begins_at_0_in_order(tmp_path: Path, heading: str) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(heading + "".join(f"{1764000000 + n / 4},resnet18\n" for n in reversed(range(21))))
    arrivals = from_trace(file)
    assert arrivals.times_s == tuple(n / 4 for n in range(21))
    assert arrivals.requests_per_s == 4
    assert str(arrivals) == "4 requests/s"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "it has 0"),
        ("1\n2\n3\n", "at least 20 moments in seconds, one a line, not all the same; it has 3"),
        (40 * "7\n", "not all the same; it has 40"),
        (40 * "1\n" + "soon\n", "line 41 of .* must be a moment in seconds, got 'soon'"),
        ("1\nnan\n", "line 2 of .* got 'nan'"),
    ],
)
def test_what_is_no_trace_is_said(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "trace.txt"
    file.write_text(content)
    with pytest.raises(UsageError, match=said):
        from_trace(file)
    with pytest.raises(UsageError, match="--trace must be a file"):
        from_trace(tmp_path / "none")


@pytest.fixture
def server() -> Iterator[Scripted]:
    server = Scripted(OK)
    yield server
    server.end()


def probe(server: Scripted, arrivals: OpenLoop) -> OpenProbe:
    return OpenProbe(Endpoints(inference_url=server.url), "m", (b"{}", "application/json"), arrivals)


def test_requests_come_though_none_is_answered(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smartbatch.doctor.probe.WARM_UP_S", 0.0)
    server.gate.clear()
    with probe(server, OpenLoop(tuple(n / 100 for n in range(20)))) as open_probe:
        while server.num_at_once < 8:  # of clients that wait, each would have sent one
            time.sleep(0.01)
        server.gate.set()
        open_probe.begin_again()
        assert open_probe.outcomes["200"] >= 8
        while len(server.requests) < 60:  # the moments begin anew where they end
            time.sleep(0.01)
    assert set(open_probe.outcomes) == {"200"}
    assert open_probe.outcomes["200"] == len(server.requests)
    assert open_probe.num_clients is None


def test_a_new_beginning_waits_for_what_is_out(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smartbatch.doctor.probe.WARM_UP_S", 0.0)
    with probe(server, OpenLoop((0.0, 0.0, 0.0, *(1000.0 + n for n in range(17))))) as open_probe:
        while open_probe.outcomes["200"] < 3:
            time.sleep(0.01)
        open_probe.begin_again()
        while open_probe.outcomes["200"] < 6:
            time.sleep(0.01)
    assert len(server.requests) == 6, "the first three again, and nothing of what was to come much later"


@pytest.mark.parametrize("waits", [True, False])
def test_in_a_pause_nothing_is_sent(server: Scripted, monkeypatch: pytest.MonkeyPatch, waits: bool) -> None:
    monkeypatch.setattr("smartbatch.doctor.probe.WARM_UP_S", 0.0)
    endpoints, body = Endpoints(inference_url=server.url), (b"{}", "application/json")
    steady = OpenLoop(tuple(n / 100 for n in range(20)))
    with Probe(endpoints, "m", body, 2) if waits else OpenProbe(endpoints, "m", body, steady) as paused:
        while len(server.requests) < 5:
            time.sleep(0.01)
        paused.pause()
        time.sleep(0.2)  # for what was on its way
        sent = len(server.requests)
        time.sleep(0.2)
        assert len(server.requests) == sent
        paused.begin_again()
        while len(server.requests) < sent + 5:
            time.sleep(0.01)
        paused.pause()  # from which an end wakes it
    assert set(paused.outcomes) == {"200"}
