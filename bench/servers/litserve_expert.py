# mypy: disable-error-code="import-not-found, untyped-decorator, misc, attr-defined"
"""LitServe as an expert writes it: raw bytes instead of base64 in JSON, its fast queue, a worker a core."""

# No `from __future__ import annotations`: FastAPI reads what `decode_request` is annotated with, as an object.

from typing import Annotated, Any

import litserve as ls
from fastapi import Body

from bench.servers import expert
from bench.servers.options import MAX_WAIT_MS, Options


class Whole(ls.LitAPI):
    """A batch of bodies to its classes."""

    def setup(self, device: str) -> None:
        """Load the model."""
        self.expert = expert.Expert(expert.Setup.read())

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]) -> bytes:
        """The body as it is: a batch is decoded at once."""
        return request

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        """As they are."""
        return inputs

    def predict(self, x: Any) -> list[int]:
        """Decode, compute; a batch of one comes as it is where batches may hold only one."""
        return self.expert.answer(x if isinstance(x, list) else [x])

    def unbatch(self, output: list[int]) -> list[int]:
        """As they are."""
        return output

    def encode_response(self, output: Any) -> dict[str, Any]:
        """The best class."""
        return {"class": output}


if __name__ == "__main__":
    setup = expert.Setup.read()
    api = Whole(max_batch_size=setup.batch_size, batch_timeout=MAX_WAIT_MS / 1000)
    ls.LitServer(api, accelerator="cpu", workers_per_device=setup.processes, timeout=300, fast_queue=True).run(
        host="127.0.0.1", port=Options.read().port, generate_client_file=False, log_level="warning"
    )
