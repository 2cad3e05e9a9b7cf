"""The locustfile as Locust users run it, headless and in the web UI, against a small server of known answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
from smartbatch.server.ports import free_ports
from smartbatch_load.load.config import user_class_name
from smartbatch_load.load.payloads import FORMATS

LOCUST = [sys.executable, "-m", "locust", "-f", str(Path(__file__).parents[2] / "loadtest" / "locustfile.py")]
LIMIT_S = 120.0
CLASSES = [user_class_name(name) for name in FORMATS]


class Handler(BaseHTTPRequestHandler):
    """Answers with the body's length as its score, so that each payload has an answer of its own; or wrongly."""

    protocol_version = "HTTP/1.1"
    right = True
    content_types: set[str]

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.rfile.read(length)
        self.content_types.add(self.headers["Content-Type"])
        body = json.dumps({"result": [length if self.right else 2.0 * length, 1.0]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def host() -> Iterator[str]:
    Handler.right, Handler.content_types = True, set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith(("LOCUST_", "SMARTBATCH_"))}


def test_every_format_headless(host: str, tmp_path: Path) -> None:
    each = str(len(CLASSES))  # of every class one user
    arguments = ["--host", host, "--headless", "-u", each, "-r", each, "-t", "10s", "--num-images", "2", "--json"]
    done = subprocess.run(
        [*LOCUST, *arguments, *CLASSES], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment()
    )
    assert done.returncode == 0, done.stderr
    stats = {row["name"]: row for row in json.loads(done.stdout)}
    assert set(stats) == set(FORMATS)
    assert all(row["num_requests"] > 0 and row["num_failures"] == 0 for row in stats.values())
    assert {row.content_type for row in FORMATS.values()} <= Handler.content_types


def test_in_the_web_ui_answers_are_checked(host: str, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    ui = f"http://127.0.0.1:{port}"
    arguments = ["--host", host, "--web-host", "127.0.0.1", "--web-port", str(port), "--num-images", "2", "NpyUser"]
    with (tmp_path / "log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [*LOCUST, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=tmp_path, env=environment()
        )
    try:
        wait_for(lambda: "SmartBatch" in page(ui) or "locust" in page(ui).lower())
        started = requests.post(f"{ui}/swarm", data={"user_count": 2, "spawn_rate": 2, "host": host}, timeout=30)
        assert started.json()["success"], started.text
        wait_for(lambda: total(ui)["num_requests"] > 10)
        assert total(ui)["num_failures"] == 0
        Handler.right = False
        wait_for(lambda: total(ui)["num_failures"] > 0)
        (error, *_) = requests.get(f"{ui}/stats/requests", timeout=30).json()["errors"]
        assert "wrong answer: best score" in error["error"]
    finally:
        process.terminate()
        process.wait(timeout=60)


def wait_for(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def page(ui: str) -> str:
    try:
        return requests.get(ui, timeout=10).text
    except requests.ConnectionError:
        return ""


def total(ui: str) -> dict[str, int]:
    rows: list[dict[str, int]] = requests.get(f"{ui}/stats/requests", timeout=30).json()["stats"]
    return next(row for row in rows if str(row["name"]) == "Aggregated")
