# mypy: disable-error-code="import-not-found, untyped-decorator, misc, attr-defined"
"""mosec as an expert writes it: processes that decode and compute, or decoding in a stage of its own."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from mosec import Server, Worker

from bench.servers import expert
from bench.servers.options import MAX_WAIT_MS, Options


class Whole(Worker):
    """A batch of bodies to its classes."""

    def __init__(self) -> None:
        super().__init__()
        self.expert = expert.Expert(expert.Setup.read())

    def deserialize(self, data: bytes) -> bytes:
        """The body as it is."""
        return data

    def forward(self, data: list[bytes]) -> list[dict[str, int]]:
        """Decode, compute."""
        return [{"class": index} for index in self.expert.answer(data)]


class Decode(Worker):
    """Bytes to uint8, a quarter of what float32 would carry to the next stage."""

    def deserialize(self, data: bytes) -> bytes:
        """The body as it is."""
        return data

    def forward(self, data: bytes) -> np.ndarray:
        """Decode."""
        return expert.decode(data)


class Classify(Worker):
    """A batch of decoded images to its classes."""

    def __init__(self) -> None:
        super().__init__()
        self.expert = expert.Expert(expert.Setup.read())

    def forward(self, data: list[np.ndarray]) -> list[dict[str, int]]:
        """Compute."""
        return [{"class": index} for index in self.expert.classify(data)]


if __name__ == "__main__":
    setup = expert.Setup.read()
    port = str(Options.read().port)
    sys.argv = [sys.argv[0], "--port", port, "--address", "127.0.0.1", "--timeout", "300000"]
    server = Server()
    limits: dict[str, Any] = {"max_batch_size": setup.batch_size, "max_wait_time": MAX_WAIT_MS, "timeout": 300}
    if setup.decoders:
        server.append_worker(Decode, num=setup.decoders, timeout=300)
        server.append_worker(Classify, num=setup.processes, **limits)
    else:
        server.append_worker(Whole, num=setup.processes, **limits)
    server.run()
