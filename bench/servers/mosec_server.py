# mypy: disable-error-code="import-not-found, untyped-decorator, misc, attr-defined"
"""mosec: a decoding stage before a batching inference stage, as its image example; or the handler in one stage."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from mosec import Server, Worker

from bench.servers.options import MAX_BATCH_SIZE, MAX_WAIT_MS, Options

NUM_DECODERS = 4


class Decode(Worker):
    """Bytes to a tensor, in processes of its own."""

    def deserialize(self, data: bytes) -> bytes:
        """The body as it is."""
        return data

    def forward(self, data: bytes) -> torch.Tensor:
        """Decode, resize, normalise."""
        from bench.servers.documented import to_tensor

        return to_tensor(data)


class Classify(Worker):
    """The batched forward."""

    def __init__(self) -> None:
        super().__init__()
        from bench.servers.documented import load_model

        self.model = load_model(Options.read().weights)

    def forward(self, data: list[torch.Tensor]) -> list[dict[str, int]]:
        """Stack, run, best class."""
        with torch.inference_mode():
            return [{"class": index} for index in self.model(torch.stack(data)).argmax(1).tolist()]


class Identical(Worker):
    """The handler's work behind mosec's batching."""

    def __init__(self) -> None:
        super().__init__()
        from bench.identical import Worker as Handler

        self.handler = Handler(Path(Options.read().model_dir), MAX_BATCH_SIZE, num_threads=1)

    def deserialize(self, data: bytes) -> bytes:
        """The body as it is."""
        return data

    def forward(self, data: list[bytes]) -> list[bytes]:
        """Run."""
        return self.handler.answer(data)

    def serialize(self, data: bytes) -> bytes:
        """The answer as it is."""
        return data


if __name__ == "__main__":
    options = Options.read()
    sys.argv = [sys.argv[0], "--port", str(options.port), "--address", "127.0.0.1", "--timeout", "300000"]
    server = Server()
    limits = {"max_batch_size": MAX_BATCH_SIZE, "max_wait_time": MAX_WAIT_MS, "timeout": 300}
    if options.style == "identical":
        server.append_worker(Identical, num=options.num_workers, **limits)
    else:
        server.append_worker(Decode, num=NUM_DECODERS, timeout=300)
        server.append_worker(Classify, num=options.num_workers, **limits)
    server.run()
