"""Clients that are slow, vanish, or send half a request: nobody else notices."""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from tests.faults.conftest import Serve
from tests.faults.models.hostile import SLEEPS
from tests.faults.serving import Load, Service, good, jvm

NUM_BAD_CLIENTS = 100


@pytest.fixture(scope="module")
def service(serve: Serve) -> Any:
    with serve() as service:
        yield service


def connect(service: Service) -> socket.socket:
    url = urlsplit(service.server.inference_url)
    return socket.create_connection((url.hostname, url.port), timeout=60)


def request(service: Service, values: list[float]) -> bytes:
    body = json.dumps({"data": values}).encode()
    head = f"POST /predictions/{service.name} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def test_slow_clients_starve_nobody(service: Service, figures: dict[str, Any]) -> None:
    """Slowloris: a hundred connections that send a byte at a time, in the headers and in the body."""
    sent = request(service, good(1))
    slow = [connect(service) for _ in range(NUM_BAD_CLIENTS)]
    try:
        with Load(service, 4, pause_s=0.1) as load:
            for at in range(40):
                for number, client in enumerate(slow):
                    first = 0 if number % 2 else len(sent) - 45  # so many bytes come in one piece
                    client.sendall(sent[: first + 1] if at == 0 else sent[first + at : first + at + 1])
                load.wait_for(5)
        assert all(reply.is_right for reply in load.replies), load.statuses()
        figures["slow clients"] = {"slow": NUM_BAD_CLIENTS, "others answered": len(load.replies)}
    finally:
        for client in slow:
            client.close()
    assert service.post(good(2)).is_right


@pytest.mark.parametrize("how", ["after the request", "within the body", "by reset"])
def test_clients_that_vanish(service: Service, figures: dict[str, Any], how: str) -> None:
    pids = service.worker_pids()
    files_before = jvm(service.server).num_fds()
    sent = request(service, [SLEEPS, 0.1, 1.0, 1.0])
    with Load(service, 4) as load:
        for _ in range(NUM_BAD_CLIENTS):
            client = connect(service)
            client.sendall(sent[:-10] if how == "within the body" else sent)
            if how == "by reset":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        load.wait_for(50)
    assert all(reply.is_right for reply in load.replies), load.statuses()
    assert service.worker_pids() == pids
    wait_until_closed(service, files_before)
    figures.setdefault("clients that vanish", {})[how] = {"vanished": NUM_BAD_CLIENTS, "others": len(load.replies)}


def wait_until_closed(service: Service, files_before: int) -> None:
    """The frontend lets go of dead connections."""
    deadline = time.monotonic() + 60
    while jvm(service.server).num_fds() > files_before + 16:
        assert time.monotonic() < deadline, (files_before, jvm(service.server).num_fds())
        time.sleep(0.2)


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "1e999", "t=", "x" * 4000])
def test_junk_in_a_header_is_the_client_s_error(service: Service, value: str) -> None:
    for header in ("X_Request_Deadline_Ms", "X_Request_Start"):
        headers = {"X_Request_Deadline_Ms": "1000"} | {header: value}
        reply = service.post(good(1), None, **headers)
        assert (reply.status, reply.code) == (400, "malformed"), reply
        assert len(reply.body["error"]["message"]) < 600


def test_a_form_of_very_many_fields(service: Service, figures: dict[str, Any]) -> None:
    """TorchServe makes an object of each field; the worker reads past them and says what was wrong."""
    pids = service.worker_pids()
    body = b"a=&" * (2**20 // 3)
    for content_type, status in (("application/x-www-form-urlencoded", 415), ("multipart/form-data; boundary=b", 400)):
        if status == 400:
            body = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n' * 1000 + b"--b--\r\n"
        start = time.monotonic()
        reply = requests.post(service.url, data=body, headers={"Content-Type": content_type}, timeout=120)
        assert reply.status_code == status, reply.text
        assert "form" in reply.json()["error"]["message"]
        figures[f"a form, {content_type.partition(';')[0]}, {len(body) / 2**20:.2f} MiB"] = {
            "seconds": round(time.monotonic() - start, 1)
        }
    assert service.worker_pids() == pids
    assert service.post(good(2)).is_right
