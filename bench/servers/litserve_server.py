# mypy: disable-error-code="import-not-found, untyped-decorator, misc, attr-defined"
"""LitServe: batch and unbatch, one worker as documented; images as base64 in JSON, its default request type."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import litserve as ls
import torch

from bench.servers.options import MAX_BATCH_SIZE, MAX_WAIT_MS, Options


class Documented(ls.LitAPI):
    """An image classifier in LitServe's own verbs."""

    def setup(self, device: str) -> None:
        """Load the model."""
        from bench.servers.documented import load_model

        self.model = load_model(Options.read().weights).to(device)

    def decode_request(self, request: dict[str, str]) -> torch.Tensor:
        """Base64 to a tensor."""
        from bench.servers.documented import to_tensor

        return to_tensor(base64.b64decode(request["image"]))

    def batch(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        """Stack."""
        return torch.stack(inputs)

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """Run."""
        with torch.inference_mode():
            return self.model(x)  # type: ignore[no-any-return]

    def unbatch(self, output: torch.Tensor) -> list[torch.Tensor]:
        """Split."""
        return list(output)

    def encode_response(self, output: torch.Tensor) -> dict[str, Any]:
        """The best class."""
        return {"class": int(output.argmax())}


class Identical(ls.LitAPI):
    """The handler's work between LitServe's queues."""

    def setup(self, device: str) -> None:
        """Load the handler."""
        from bench.identical import Worker

        self.worker = Worker(Path(Options.read().model_dir), MAX_BATCH_SIZE, num_threads=1)

    def decode_request(self, request: dict[str, str]) -> bytes:
        """Base64 to bytes."""
        return base64.b64decode(request["image"])

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        """As they are."""
        return inputs

    def predict(self, x: list[bytes]) -> list[bytes]:
        """Run."""
        return self.worker.answer(x)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        """As they are."""
        return output

    def encode_response(self, output: bytes) -> dict[str, str]:
        """The handler's JSON, as text in LitServe's."""
        return {"answer": output.decode()}


if __name__ == "__main__":
    options = Options.read()
    api_class = Identical if options.style == "identical" else Documented
    api = api_class(max_batch_size=MAX_BATCH_SIZE, batch_timeout=MAX_WAIT_MS / 1000)
    ls.LitServer(api, accelerator="cpu", workers_per_device=options.num_workers, timeout=300).run(
        host="127.0.0.1", port=options.port, generate_client_file=False, log_level="warning"
    )
