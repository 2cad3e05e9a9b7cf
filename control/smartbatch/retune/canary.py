"""One real request to a new version before it gets any traffic, and enough of them that every worker is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from smartbatch_worker.contract.pictures import height_and_width
from smartbatch_worker.contract.shapes import concrete_shape

from smartbatch.client import encode_body
from smartbatch.errors import SmartBatchError
from smartbatch.remote.management import ManagementClient, ModelStatus
from smartbatch.remote.status import describe_workers

_IMAGE_SIZE, _FREE_SIZE = (224, 224), 8
_MAX_ROUNDS = 10


class CanaryError(SmartBatchError):
    """The new version did not answer as the old one does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Canary:
    """Where and what to send."""

    inference_url: str | None
    """None: unknown; then the workers are only asked to describe themselves."""
    token: str | None = None
    verify: bool | str = True
    file: Path | None = None
    """A body of the user's; None makes one of the model's input shape."""
    timeout_s: float = 120.0

    def check(self, client: ManagementClient, new: ModelStatus, old: ModelStatus) -> str:
        """Send it; returns what was done, in words.

        Raises:
            CanaryError: the new version fails where the old one does not, or answers nothing.
        """
        described = client.describe(new.model_name, new.version, customized=True, timeout_s=self.timeout_s).customized
        body = self._body(described or {})
        if self.inference_url is None:
            return "no canary request: its workers answered (--url names the inference address)"
        if body is None:
            return "no canary request: the handler does not say what it takes (--canary FILE sends yours)"
        status, text = self._send(new, body)
        if status != 200:
            before, _ = self._send(old, body)
            if before != status:
                raise CanaryError(
                    f"the canary request got {status} from the new version, {before} from the old: {text}"
                )
        self._load_all(client, new, body)
        return f"canary request answered {status}"

    def _body(self, described: Any) -> tuple[bytes, str] | None:
        if self.file is not None:
            return encode_body(self.file)
        config = described.get("config")
        if not isinstance(config, dict):
            return None
        size = height_and_width(config.get("image_crop")) or _IMAGE_SIZE
        shape = concrete_shape(config.get("input_shape"), size, _FREE_SIZE)
        return None if shape is None else encode_body({"data": _filled(shape)})

    def _send(self, version: ModelStatus, body: tuple[bytes, str]) -> tuple[int, str]:
        headers = {"Content-Type": body[1]}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        url = f"{self.inference_url}/predictions/{version.model_name}/{version.version}"
        try:
            with requests.Session() as session:
                session.trust_env = False
                reply = session.post(url, data=body[0], headers=headers, timeout=self.timeout_s, verify=self.verify)
        except requests.RequestException as error:
            raise CanaryError(f"the canary request to {url} got no answer: {error}") from error
        return reply.status_code, reply.text[:200]

    def _load_all(self, client: ManagementClient, version: ModelStatus, body: tuple[bytes, str]) -> None:
        """Have every worker load its weights now: after the switch, traffic would wait for that."""
        for _ in range(_MAX_ROUNDS):
            described = describe_workers(client, version, self.timeout_s)
            if all(worker.get("loaded", True) for worker in described.values()):
                return
            with ThreadPoolExecutor(len(version.workers)) as pool:
                list(pool.map(lambda _: self._send(version, body), version.workers))


def _filled(shape: Sequence[int]) -> Any:
    data: Any = 0.5
    for size in reversed(shape):
        data = [data] * size
    return data
