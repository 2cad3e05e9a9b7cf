"""How requests come in from TorchServe's frontend: one read where TorchServe's own code makes dozens a request.

A batch is a run of length-prefixed fields on a socket. TorchServe 0.12 reads each length and each field by calls of its
own, about seventy for a plain request, and asks for a large body afresh with every packet. Here a reader fills one
buffer and cuts fields out of it; a field larger than the buffer is received where it stays. What comes out is what
TorchServe's `ts.protocol.otf_message_handler` gives, but for requests of several fields. Theirs arrive as one, since
TorchServe would keep one field a name; and those of more than MAX_FIELDS arrive cut short and marked, since millions of
empty fields fit into one body, and each would become a Python object.
"""

from __future__ import annotations

import logging
import struct
import sys
from types import ModuleType
from typing import Any, Protocol

from smartbatch_worker.torchserve.forms import FIELDS, FormField

logger = logging.getLogger(__name__)

MAX_FIELDS = 128
"""Fields of one form; as many as current releases of Netty take."""

TOO_MANY_FIELDS = "smartbatch: too many fields"
"""Stands among the fields of a form that was cut short."""

_BUFFER_BYTES = 256 * 1024
_INT = struct.Struct("!i")
_ended_because: list[str] = []
_END_OF_LIST = -1

Field = dict[str, Any]


class Receives(Protocol):
    """The part of a socket that is used."""

    def recv_into(self, buffer: memoryview) -> int:
        """Fill a part of `buffer`; how much, or 0 at the end."""


class Reader:
    """Cuts length-prefixed fields out of what a socket sends.

    It may hold bytes the caller has not asked for yet, so one socket needs one reader for its life.
    """

    def __init__(self, connection: Receives, buffer_bytes: int = _BUFFER_BYTES) -> None:
        self._connection = connection
        self._buffer = bytearray(buffer_bytes)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0

    def integer(self) -> int:
        """A signed 32-bit number."""
        if self._end - self._start < _INT.size:
            self._fill(_INT.size)
        (value,) = _INT.unpack_from(self._buffer, self._start)
        self._start += _INT.size
        return int(value)

    def take(self, num_bytes: int) -> bytearray:
        """The next `num_bytes` bytes, the caller's to keep."""
        num_held = self._end - self._start
        if num_bytes > num_held:
            if num_bytes > len(self._buffer):
                return self._take_large(num_bytes)
            self._fill(num_bytes)
        start = self._start
        self._start += num_bytes
        return self._buffer[start : start + num_bytes]

    def skip_list(self) -> None:
        """Drop length-prefixed entries up to the end of their list; millions of them, so without a call for each."""
        unpack = _INT.unpack_from
        while True:
            at, end, buffer = self._start, self._end, self._buffer
            while at + _INT.size <= end:
                (length,) = unpack(buffer, at)
                if length == _END_OF_LIST:
                    self._start = at + _INT.size
                    return
                at += _INT.size + length
            self._start = min(at, end)
            self._drop(at - self._start)  # the rest of an entry that goes on beyond what is held
            self._fill(_INT.size)

    def _drop(self, num_bytes: int) -> None:
        """Drop bytes that have not been received yet; nothing else is held."""
        while num_bytes > 0:
            num_bytes -= self._receive(self._view[: min(num_bytes, len(self._buffer))])

    def _take_large(self, num_bytes: int) -> bytearray:
        taken = bytearray(num_bytes)
        view = memoryview(taken)
        filled = self._end - self._start
        view[:filled] = self._view[self._start : self._end]
        self._start = self._end = 0
        while filled < num_bytes:
            filled += self._receive(view[filled:])
        return taken

    def _fill(self, num_bytes: int) -> None:
        """Receive until at least `num_bytes` are held; they fit into the buffer."""
        num_held = self._end - self._start
        if self._start + num_bytes > len(self._buffer) or num_held == 0:
            self._buffer[:num_held] = self._buffer[self._start : self._end]
            self._start, self._end = 0, num_held
        while self._end - self._start < num_bytes:
            self._end += self._receive(self._view[self._end :])

    def _receive(self, into: memoryview) -> int:
        num_bytes = self._connection.recv_into(into)
        if not num_bytes:
            logger.info("Frontend disconnected.")
            sys.exit(0)  # as TorchServe's own code: the frontend is gone, or has given this worker up
        return num_bytes


def read_batch(reader: Reader) -> list[dict[str, Any]]:
    """One batch: `{"requestId", "headers": [{name, value}], "parameters": [{name, contentType, value}]}` a request."""
    requests = []
    while (length := reader.integer()) != _END_OF_LIST:
        request_id = reader.take(length)
        headers: list[Field] = []
        while (length := reader.integer()) != _END_OF_LIST:
            name = reader.take(length)
            headers.append({"name": name, "value": reader.take(reader.integer())})
        requests.append({"requestId": request_id, "headers": headers, "parameters": _read_fields(reader)})
    return requests


def _read_fields(reader: Reader) -> list[Field]:
    fields: list[Field] = []
    while (length := reader.integer()) != _END_OF_LIST:
        name = reader.take(length).decode("utf-8")
        content_type = reader.take(reader.integer()).decode("utf-8")
        fields.append({"name": name, "contentType": content_type, "value": reader.take(reader.integer())})
        if len(fields) > MAX_FIELDS:
            reader.skip_list()
            return [{"name": TOO_MANY_FIELDS, "contentType": "", "value": b""}]
    if len(fields) > 1:
        form = [FormField(field["name"], field["contentType"], field["value"]) for field in fields]
        return [{"name": FIELDS, "contentType": "", "value": form}]
    return fields


def end_after_reply(reason: str) -> None:
    """End this worker when the frontend has its answers, and have the frontend start another."""
    _ended_because.append(reason)


def _next_field(reader: Reader, num_bytes: int) -> bytearray:
    """What a message begins with: the one before has been answered."""
    if _ended_because:
        logger.error("this worker ends: %s", _ended_because[0])
        sys.exit(1)
    return reader.take(num_bytes)


def install(protocol: ModuleType) -> bool:
    """Make `ts.protocol.otf_message_handler` read through a Reader; False where it is not the code we know.

    Call it between two messages: a Reader starts with an empty buffer.
    """
    if getattr(protocol, "_reads_for_smartbatch", False):
        return True
    readers: dict[Any, Reader] = {}

    def reader_of(connection: Any) -> Reader:
        reader = readers.get(connection)
        if reader is None:
            readers.clear()  # a worker has one connection at a time
            reader = readers[connection] = Reader(connection)
        return reader

    replacements = {
        "_retrieve_buffer": lambda connection, length: _next_field(reader_of(connection), length),
        "_retrieve_int": lambda connection: reader_of(connection).integer(),
        "_retrieve_inference_msg": lambda connection: read_batch(reader_of(connection)),
    }
    if any(not callable(getattr(protocol, name, None)) for name in replacements):
        logger.warning("this is not TorchServe 0.12: requests are read by TorchServe's own code")
        return False
    for name, replacement in replacements.items():
        setattr(protocol, name, replacement)
    protocol._reads_for_smartbatch = True  # type: ignore[attr-defined]
    return True
