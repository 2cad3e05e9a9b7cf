"""Forms and compressed bodies as clients send them, through TorchServe's frontend, which takes forms apart."""

from __future__ import annotations

import gzip
import io
from typing import Any

import numpy as np
import pytest
import requests
from smartbatch.server.running import RunningServer

NUMBERS = np.array([1, 2, 3, 4], np.float32)
RIGHT = [3.0, 5.0, 7.0, 9.0]
JSON = b'{"data": [1, 2, 3, 4]}'


def npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, NUMBERS)
    return stream.getvalue()


def post(server: RunningServer, path: str = "/predictions/tiny", **request: Any) -> tuple[int, Any]:
    """(status, result or message)."""
    answer = requests.post(f"{server.inference_url}{path}", timeout=60, **request)
    body = answer.json()
    return answer.status_code, body["result"] if answer.ok else body["error"]["message"]


FORMS: dict[str, Any] = {
    "a file": {"files": {"file": ("numbers.npy", npy(), "application/octet-stream")}},
    "a file whose type is not said": {"files": {"file": npy()}},
    "a file of JSON": {"files": {"upload": ("x.json", JSON, "application/json")}},
    "a file among text fields": {"files": {"file": ("x.npy", npy())}, "data": {"title": "numbers", "data": "1"}},
    "a file named as a header": {"files": {"Content-Type": ("x.npy", npy())}, "data": {"describe": "no"}},
    "a text field alone": {"files": {"anything": (None, JSON)}},
}


@pytest.mark.parametrize("name", FORMS)
def test_forms_with_one_file_are_answered(running_server: RunningServer, name: str) -> None:
    assert post(running_server, **FORMS[name]) == (200, RIGHT)


def test_other_forms_say_what_was_found(running_server: RunningServer) -> None:
    two = [("file", ("a.npy", npy())), ("file", ("b.npy", npy()))]
    status, message = post(running_server, files=two)
    assert status == 400
    assert "found 2: 'file', 'file'" in message
    status, message = post(running_server, files={"a": (None, "1"), "b": (None, "2")})
    assert status == 400
    assert "found none among its 2 fields: 'a', 'b'" in message
    status, message = post(running_server, data=b"")
    assert status == 400
    assert "the body is empty" in message


@pytest.mark.parametrize("path", ["/predictions/tiny?x=1", "/models/tiny/invoke?x=1&body=2"])
def test_a_query_is_not_the_body(running_server: RunningServer, path: str) -> None:
    assert post(running_server, path, data=JSON, headers={"Content-Type": "application/json"}) == (200, RIGHT)


def test_compressed_bodies_are_inflated_or_refused(running_server: RunningServer) -> None:
    packed = gzip.compress(JSON)
    as_json = {"Content-Type": "application/json"}
    assert post(running_server, data=packed, headers={**as_json, "Content-Encoding": "gzip"}) == (200, RIGHT)
    assert post(running_server, data=gzip.compress(npy()), headers={"Content-Encoding": "GZIP"}) == (200, RIGHT)
    assert post(running_server, data=JSON, headers={**as_json, "Content-Encoding": "identity"}) == (200, RIGHT)
    status, message = post(running_server, data=JSON, headers={**as_json, "Content-Encoding": "br"})
    assert status == 415
    assert "'br'" in message
    bomb = gzip.compress(bytes(65 * 2**20), 9)
    status, message = post(running_server, data=bomb, headers={"Content-Encoding": "gzip"})
    assert status == 413
    assert "inflates to more" in message


def test_numbers_beyond_64_bits_arrive(running_server: RunningServer) -> None:
    status, result = post(
        running_server, data=b'{"id": 123456789012345678901, "data": [1e19, 120000000000000000000, 1, 2]}'
    )
    assert status == 200
    assert result == pytest.approx([2e19, 2.4e20, 3, 5], rel=1e-6)
