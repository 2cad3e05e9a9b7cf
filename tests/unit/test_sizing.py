"""How many machines a rate takes: the arithmetic, which part is full first, and the tables in docs/scaling.md."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest

from bench import sizing
from bench.sizing import Cell, Given, size
from tests import documents

GIVEN = Given(
    host_per_s=100,
    slo_p95_ms=2000,
    body_kb=40,
    gbit=10,
    proxy_cores=2,
    proxy_cpu_ms=0.2,
    price_host=1,
    price_proxy=3,
    zones=1,
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells that are simulated in no time."""
    monkeypatch.setattr(sizing, "MOST_HOSTS", 4)
    monkeypatch.setattr(sizing, "REQUESTS_A_HOST", 100)
    monkeypatch.setattr(sizing, "SHARES", (0.2, 0.5))


def test_machines_grow_with_the_rate() -> None:
    one = Cell(hosts=50, per_s=4000, share=0.8, p95_ms=300, limit="")
    found = size(100_000, one, GIVEN)
    assert (found.hosts, found.cells, found.price) == (1250, 25, 1250 + 2 * 25 * 3)
    assert found.gbit == pytest.approx(32)
    assert size(100_000, one, replace(GIVEN, zones=3)).hosts == 1875, "two zones of three carry all of it"
    assert size(1, one, replace(GIVEN, zones=3)).hosts == 3, "one in each"
    assert size(1, one, GIVEN).hosts == 1


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("changed", "hosts", "limit"),
    [
        ({}, 4, "4 hosts"),
        ({"proxy_cpu_ms": 4.0}, 3, "proxy's cores"),
        ({"body_kb": 4000.0}, 2, "proxy's network"),
    ],
)
def test_which_part_is_full_first(changed: dict[str, float], hosts: int, limit: str) -> None:
    found = sizing.cell(replace(GIVEN, **changed))  # type: ignore[arg-type]
    assert (found.hosts, found.limit, found.share) == (hosts, limit, 0.5)
    assert found.per_s == pytest.approx(50 * hosts)


@pytest.mark.usefixtures("small")
def test_an_objective_that_is_out_of_reach_is_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        sizing.main(["--slo-p95-ms", "1"])
    assert ended.value.code == 2
    assert "--slo-p95-ms must be above" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        sizing.main(["--host-per-s", "0"])
    assert "--host-per-s must be above 0, got 0" in capsys.readouterr().err


@pytest.mark.slow  # whole cells: tens of seconds each
def test_the_tables_in_the_document_are_what_the_commands_print(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = [block for block in documents.blocks("docs/scaling.md") if block.text.startswith("python -m bench.sizing")]
    page = (documents.ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    commands = [shlex.split(line)[3:] for block in blocks for line in block.text.splitlines()]
    tables = [command for command in commands if "--measure-proxy" not in command]
    assert len(tables) == 2
    for command in tables:
        sizing.main(command)
        assert capsys.readouterr().out.strip() in page, command
