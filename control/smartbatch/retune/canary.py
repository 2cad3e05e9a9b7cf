"""One real request to a new version before it gets any traffic, and enough of them that every worker is loaded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import requests

from smartbatch.client import encode_body
from smartbatch.errors import SmartBatchError
from smartbatch.remote.management import ManagementClient, ModelStatus
from smartbatch.remote.status import describe_workers, wait_measured
from smartbatch.sample_request import sample_request

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
    """A body of the user's; None is the archive's example, or one made of the model's inputs."""
    timeout_s: float = 120.0

    def check(self, client: ManagementClient, new: ModelStatus, old: ModelStatus) -> str:
        """Send it; returns what was done, in words.

        Raises:
            CanaryError: the new version fails where the old one does not, or answers nothing.
        """
        described = client.describe(new.model_name, new.version, customized=True, timeout_s=self.timeout_s).customized
        body = self._body(described)
        if self.inference_url is None:
            return "no canary request: its workers answered (--url names the inference address)"
        if isinstance(body, str):
            return f"no canary request: {body} (--canary FILE sends yours)"
        self._judge(new, old, body)  # before others are sent: it may never answer
        self._load_all(client, new, body)
        if not wait_measured(client, new, self.timeout_s):
            return "canary request answered; its workers still measure how they compute fastest"
        status = self._judge(new, old, body)  # of the way that will serve, where that is another than the first
        return f"canary request answered {status}"

    def _judge(self, new: ModelStatus, old: ModelStatus, body: tuple[bytes, str]) -> int:
        """The status of the new version's answer.

        Raises:
            CanaryError: the old version's is another.
        """
        status, text = self._send(new, body)
        if status != 200:
            before, _ = self._send(old, body)
            if before != status:
                raise CanaryError(
                    f"the canary request got {status} from the new version, {before} from the old: {text}"
                )
        return status

    def _body(self, described: object) -> tuple[bytes, str] | str:
        """Body and content type, or why there are none."""
        if self.file is not None:
            return encode_body(self.file)
        sample = sample_request(described)
        return sample if isinstance(sample, str) else (sample.body, sample.content_type)

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
