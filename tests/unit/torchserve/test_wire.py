"""Reading requests gives what TorchServe's own code gives, however the bytes arrive."""

from __future__ import annotations

import importlib.util
import struct
import warnings
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from smartbatch_worker.torchserve import wire
from smartbatch_worker.torchserve.forms import FIELDS, FormField


class Chunks:
    """A connection that hands its bytes over in pieces of the given sizes, over and over."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self.data, self.sizes, self.num_calls = data, sizes, 0

    def recv_into(self, buffer: memoryview) -> int:
        size = min(self.sizes[self.num_calls % len(self.sizes)], len(buffer), len(self.data))
        self.num_calls += 1
        buffer[:size] = self.data[:size]
        self.data = self.data[size:]
        return size

    def recv(self, num_bytes: int) -> bytes:
        piece = bytearray(num_bytes)
        return bytes(piece[: self.recv_into(memoryview(piece))])


def field(data: bytes) -> bytes:
    return struct.pack("!i", len(data)) + data


END = struct.pack("!i", -1)


def message(requests: list[dict[str, Any]]) -> bytes:
    """The frontend's side: a batch as TorchServe 0.12 writes it."""
    parts = []
    for request in requests:
        parts.append(field(request["id"]))
        parts += [field(name) + field(value) for name, value in request["headers"]] + [END]
        parts += [field(name) + field(kind) + field(value) for name, kind, value in request["fields"]] + [END]
    return b"".join(parts) + END


text = st.text(max_size=20).map(str.encode)
requests_strategy = st.lists(
    st.fixed_dictionaries(
        {
            "id": text,
            "headers": st.lists(st.tuples(text, text), max_size=4),
            "fields": st.lists(st.tuples(text, text, st.binary(max_size=200)), max_size=3),
        }
    ),
    max_size=4,
)


@pytest.fixture(scope="module")
def torchserve() -> ModuleType:
    """A copy of TorchServe's protocol module, so that replacing functions in it harms no other test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # TorchServe leaves its version file open
        spec = importlib.util.find_spec("ts.protocol.otf_message_handler")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@given(
    requests=requests_strategy, sizes=st.lists(st.integers(1, 300), min_size=1, max_size=5), buffer=st.integers(4, 90)
)
def test_as_torchserve_reads(torchserve: ModuleType, requests: list[Any], sizes: list[int], buffer: int) -> None:
    data = message(requests)
    expected = torchserve._retrieve_inference_msg(Chunks(data, [1000]))
    for request in expected:
        if len(request["parameters"]) > 1:
            request["parameters"] = [{"name": FIELDS, "contentType": "", "value": as_form(request["parameters"])}]
    reader = wire.Reader(Chunks(data + data, sizes), buffer)
    assert wire.read_batch(reader) == expected
    assert wire.read_batch(reader) == expected  # nothing of the next batch was lost


def as_form(fields: list[dict[str, Any]]) -> list[FormField]:
    return [FormField(field["name"], field["contentType"], field["value"]) for field in fields]


def test_two_fields_of_one_name_both_arrive() -> None:
    fields = [(b"file", b"image/png", b"1"), (b"file", b"image/png", b"2")]
    (request,) = wire.read_batch(wire.Reader(Chunks(message([{"id": b"1", "headers": [], "fields": fields}]), [99])))
    (parameter,) = request["parameters"]
    assert [(field.name, field.value) for field in parameter["value"]] == [("file", b"1"), ("file", b"2")]


def test_what_is_taken_is_not_overwritten() -> None:
    reader = wire.Reader(Chunks(b"aaaabbbbcccc", [4]), 4)
    taken = [reader.take(4) for _ in range(3)]
    assert taken == [b"aaaa", b"bbbb", b"cccc"]


def test_a_plain_request_costs_one_call() -> None:
    headers = [(f"name{i}".encode(), b"value") for i in range(10)]
    connection = Chunks(message([{"id": b"1", "headers": headers, "fields": [(b"body", b"", b"x" * 1000)]}]), [10**6])
    wire.read_batch(wire.Reader(connection))
    assert connection.num_calls == 1


def test_a_form_of_too_many_fields_is_cut_and_the_next_request_is_whole() -> None:
    many = [(b"a", b"text/plain", b"")] * (wire.MAX_FIELDS + 1000)
    plain = {"id": b"2", "headers": [], "fields": [(b"body", b"", b"x")]}
    first, second = wire.read_batch(
        wire.Reader(Chunks(message([{"id": b"1", "headers": [], "fields": many}, plain]), [999]), 64)
    )
    assert [field["name"] for field in first["parameters"]] == [wire.TOO_MANY_FIELDS]
    assert second["parameters"] == [{"name": "body", "contentType": "", "value": b"x"}]


def test_the_end_of_the_connection_ends_the_worker() -> None:
    with pytest.raises(SystemExit) as ended:
        wire.Reader(Chunks(b"\x00\x00", [10])).integer()
    assert ended.value.code == 0


def test_installed_torchserve_reads_whole_messages_through_it(torchserve: ModuleType) -> None:
    request = {"id": b"1", "headers": [(b"a", b"b")], "fields": [(b"body", b"application/json", b"[1]")]}
    connection = Chunks((b"I" + message([request])) * 2, [7])
    assert wire.install(torchserve)
    assert wire.install(torchserve), "twice does no harm"
    for _ in range(2):
        command, batch = torchserve.retrieve_msg(connection)
        assert command == b"I"
        assert batch[0]["parameters"][0]["value"] == b"[1]"


def test_a_worker_of_no_more_use_ends_once_it_has_answered(
    torchserve: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_ended_because", [])
    plain = {"id": b"1", "headers": [], "fields": [(b"body", b"", b"x")]}
    connection = Chunks((b"I" + message([plain])) * 2, [1])
    assert wire.install(torchserve)
    torchserve.retrieve_msg(connection)
    wire.end_after_reply("its GPU is lost")
    with pytest.raises(SystemExit) as ended:
        torchserve.retrieve_msg(connection)
    assert ended.value.code == 1


def test_another_torchserve_is_left_alone() -> None:
    module = ModuleType("otf_message_handler")
    assert not wire.install(module)
    assert not hasattr(module, "_retrieve_buffer")
