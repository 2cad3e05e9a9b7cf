"""Which request the canary is; sending it is for tests/e2e."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from smartbatch.remote.management import ManagementClient, ModelStatus
from smartbatch.remote.model_status import WorkerStatus
from smartbatch.retune.canary import Canary
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.description import example_of

from tests.unit.describing import Says


class Sent(Canary):
    """Keeps what it would send."""

    bodies: list[tuple[bytes, str]] = []  # noqa: RUF012  one test reads it, and each test has its own class

    def _send(self, version: ModelStatus, body: tuple[bytes, str]) -> tuple[int, str]:
        self.bodies.append(body)
        return 200, ""

    def _load_all(self, client: ManagementClient, version: ModelStatus, body: tuple[bytes, str]) -> None:
        pass


def check(section: dict[str, Any] | None, example: tuple[bytes, str] | None = None, **keys: Any) -> tuple[str, Any]:
    """What the canary reports, and what it sent."""

    class Its(Sent):
        bodies: list[tuple[bytes, str]] = []  # noqa: RUF012

    told = None if example is None else example_of(*example)
    said = section and {"pid": 1, "config": WorkerConfig.resolve(section, {}).as_dict(), "example": told}
    client = Says(said)
    version = client.describe("m")
    report = Its(inference_url="http://127.0.0.1:1", **keys).check(client, version, version)
    return report, Its.bodies[0] if Its.bodies else None


class Measures(Says):
    """Its one worker still measures when it is asked for the first two times."""

    num_asked = 0

    def describe(self, model: str, *_: Any, **__: Any) -> ModelStatus:
        self.num_asked += 1
        self._said = {**self._said, "measuring": self.num_asked <= 4}
        status = super().describe(model)
        worker = WorkerStatus(id="9000", pid=1, status="READY", gpu=False, started="")
        return replace(status, workers=(worker,))


def test_the_workers_final_way_is_judged_as_well() -> None:
    class Its(Sent):
        bodies: list[tuple[bytes, str]] = []  # noqa: RUF012

    said = {"pid": 1, "config": WorkerConfig.resolve({"input_shape": [4]}, {}).as_dict(), "example": None}
    client = Measures(said)
    version = client.describe("m")
    assert Its(inference_url="http://127.0.0.1:1").check(client, version, version) == "canary request answered 200"
    assert len(Its.bodies) == 2
    assert client.num_asked == 5
    client.num_asked = -1000
    report = Its(inference_url="http://127.0.0.1:1", timeout_s=0.0).check(client, version, version)
    assert report == "canary request answered; its workers still measure how they compute fastest"


IDS = {"ids": {"dtype": "int64", "shape": ["L"], "pad": 0}}
OPEN = {"ids": {"dtype": "int64", "shape": ["L"]}}


def test_it_is_the_archives_example() -> None:
    report, sent = check({"inputs": OPEN}, (b'{"inputs": {"ids": [7]}}', "application/json"))
    assert report == "canary request answered 200"
    assert sent == (b'{"inputs": {"ids": [7]}}', "application/json")


def test_it_is_made_up_of_named_inputs() -> None:
    _, sent = check({"inputs": IDS, "lengths": {"L": [2, 4]}})
    assert sent == (b'{"inputs": {"ids": [1, 1]}}', "application/json")


def test_the_users_file_beats_both(tmp_path: Path) -> None:
    (tmp_path / "mine.npz").write_bytes(b"mine")
    _, sent = check({"inputs": IDS}, (b"{}", "application/json"), file=tmp_path / "mine.npz")
    assert sent == (b"mine", "application/x-npz")


@pytest.mark.parametrize(
    ("section", "why"), [({"inputs": OPEN}, "its inputs leave sizes open"), (None, "the handler does not say what")]
)
def test_where_there_is_none_it_is_said(section: dict[str, Any] | None, why: str) -> None:
    report, sent = check(section)
    assert report.startswith(f"no canary request: {why}")
    assert report.endswith("(--canary FILE sends yours)")
    assert sent is None
