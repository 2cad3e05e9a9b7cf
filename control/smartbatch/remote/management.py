"""TorchServe's management API: register, describe, scale, switch versions, wait until workers are READY."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import requests

from smartbatch.errors import DeadlineError, ModelNotReadyError, NotRunningError, SmartBatchError, WorkerStartError
from smartbatch.remote.key_file import is_expired, read_tokens
from smartbatch.remote.model_status import ModelEntry, ModelStatus, WorkerStatus
from smartbatch.remote.state import KEY_FILE, ServerState
from smartbatch.remote.worker_log import WorkerLog

__all__ = ["DrainState", "ManagementClient", "ManagementError", "ModelEntry", "ModelStatus", "WorkerStatus"]

_POLL_S = 0.25
_DEFAULT_TIMEOUT_S = 60.0
# One death may be an accident (memory that was short for a moment), and TorchServe's next try then succeeds.
_MAX_DEATHS = 2


class ManagementError(SmartBatchError):
    """The management API refused a call.

    Attributes:
        status: the HTTP status: 404 unknown archive or model, 409 version registered already, 400 token.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, kw_only=True, slots=True)
class DrainState:
    """What a frontend owes, as `GET /drain` of the management port tells it."""

    draining_since: float | None = None
    """Unix seconds; None: it takes requests."""
    queued: int
    """Requests that wait for a worker."""
    answering: int
    """Requests without an answer yet, those that wait included."""
    receiving: int
    """Requests of which only a part has come."""
    quiet_ms: int
    """Since anything more of those came."""
    connections: int
    """Open to the inference port."""


class ManagementClient:
    """Talks to one server's management port; works for any TorchServe 0.12, ours or not."""

    def __init__(
        self,
        base_url: str,
        token: str | None = None,
        *,
        verify: bool | str = True,
        key_file: Path | None = None,
        log_dir: Path | None = None,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._session = requests.Session()
        self._session.trust_env = False  # no proxies, no netrc: a management port is near by
        self._session.verify = verify
        self._token = token
        self._key_file = key_file
        self._log_dir = log_dir

    @classmethod
    def for_state(cls, state: ServerState) -> ManagementClient:
        """A client for a server started here; its run folder has address, token and certificate."""
        return cls(
            state.management_url,
            verify=state.tls_cert or True,
            key_file=Path(state.run_dir) / KEY_FILE if state.token_auth else None,
            log_dir=Path(state.run_dir) / "logs",
        )

    def register(
        self,
        url: str,
        model_name: str | None = None,
        *,
        batch_size: int = 32,
        max_batch_delay_ms: int = 10,
        workers: int = 1,
        response_timeout_s: int | None = None,
    ) -> str:
        """Register an archive and start its workers; returns before they are READY (see `wait_ready`).

        Args:
            url: the archive's or folder's name in the model store.
            model_name: None takes the archive's own.
        """
        params: dict[str, str | int] = {
            "url": url,
            "batch_size": batch_size,
            "max_batch_delay": max_batch_delay_ms,
            "initial_workers": workers,
            "synchronous": "false",
        }
        if model_name is not None:
            params["model_name"] = model_name
        if response_timeout_s is not None:
            params["response_timeout"] = response_timeout_s
        return str(self._call("POST", "/models", params)["status"])

    def models(self) -> list[ModelEntry]:
        """Every registered model, by name."""
        found: list[ModelEntry] = []
        page = ""
        while True:
            reply = self._call("GET", "/models", {"limit": 100, "next_page_token": page or 0})
            found += [ModelEntry(m["modelName"], m["modelUrl"]) for m in reply["models"]]
            page = reply.get("nextPageToken", "")
            if not page:
                return found

    def describe(
        self,
        model: str,
        version: str | None = None,
        *,
        customized: bool = False,
        timeout_s: float = _DEFAULT_TIMEOUT_S,
    ) -> ModelStatus:
        """The default version of `model`, or the one named.

        Args:
            customized: also ask the handler, through the queue and a worker: slower, and needs one READY.
        """
        path = _model_path(model, version)
        params = {"customized": "true"} if customized else {}
        return ModelStatus.from_json(self._call("GET", path, params, timeout_s=timeout_s)[0])

    def versions(self, model: str) -> list[ModelStatus]:
        """All registered versions of `model`."""
        return [ModelStatus.from_json(reply) for reply in self._call("GET", _model_path(model, "all"))]

    def scale(self, model: str, workers: int, version: str | None = None) -> str:
        """Set the number of workers; returns before new ones are READY.

        Workers taken away lose their batch in flight, and what waits for a version without any is refused (by
        TorchServe's own frontend: not answered before it gets one again): `scaling.scale` loses nothing.
        """
        params: dict[str, str | int] = {"min_worker": workers, "max_worker": workers, "synchronous": "false"}
        return str(self._call("PUT", _model_path(model, version), params)["status"])

    def unregister(self, model: str, version: str | None = None) -> str:
        """Remove a version (None: the default one); requests still in its queue are refused.

        TorchServe's own frontend never answers them.
        `scaling.unregister` has them answered first.
        """
        return str(self._call("DELETE", _model_path(model, version))["status"])

    def set_default(self, model: str, version: str) -> str:
        """Send requests that name no version to `version` from now on."""
        return str(self._call("PUT", f"{_model_path(model, version)}/set-default")["status"])

    def wait_ready(self, model: str, timeout_s: float = 300.0, version: str | None = None) -> ModelStatus:
        """Wait until every worker of `model` is READY.

        Raises:
            DeadlineError: naming the workers' states and last error, when they are not READY within `timeout_s`.
            ModelNotReadyError: when the model is unknown, or has no workers and so never will be ready.
            WorkerStartError: with the worker's last error, when one died twice meanwhile.
        """
        deadline = time.monotonic() + timeout_s
        log = WorkerLog(self._log_dir)
        while True:
            status = self.describe(model, version)
            if status.is_ready:
                return status
            if status.min_workers == 0:
                raise ModelNotReadyError(
                    f"{model} {status.version} has no workers: smartbatch scale {model} --workers N"
                )
            num_deaths = log.num_deaths(status.workers)
            if num_deaths >= _MAX_DEATHS:
                why = log.last_error(status.workers) or "it left no word, as one that crashes or is killed does"
                died = f"{model} {status.version} cannot start, its worker died {num_deaths} times"
                raise WorkerStartError(f"{died}: {why} (see {log.place})")
            if time.monotonic() > deadline:
                states = ", ".join(f"{w.id} {w.status}" for w in status.workers) or "no worker"
                error = log.last_error(status.workers)
                why = f"; its worker's last error: {error} (see {log.place})" if error else f" (see {log.place})"
                raise DeadlineError(f"{model} {status.version} is not ready after {timeout_s:g} s: {states}{why}")
            time.sleep(_POLL_S)

    def drain(self, *, refuse_queued: bool = False) -> DrainState | None:
        """Have the frontend take no more requests; returns at once, None where it is TorchServe's own, which cannot.

        Args:
            refuse_queued: also answer 503 what still waits for a worker.
        """
        try:
            return DrainState(**self._call("POST", "/drain", {"queued": "refuse"} if refuse_queued else {}))
        except ManagementError as e:
            if e.status in (404, 405):
                return None
            raise

    def drain_state(self) -> DrainState:
        """How far a drain is."""
        return DrainState(**self._call("GET", "/drain"))

    def frontend(self) -> Mapping[str, Any]:
        """How much of TorchServe's frontend is mended: "frontend" is "mended", or "stock" and then all there is.

        "page" is whether there is one at /ui/ of the inference port.
        """
        try:
            found = self._call("GET", "/frontend")
        except ManagementError as error:
            if error.status != 404:
                raise
            found = {"frontend": "stock"}
        assert isinstance(found, dict)
        return found

    def new_token(self, kind: str, api_key: str) -> None:
        """Have TorchServe write a fresh `inference` or `management` token to its key file."""
        self._call("GET", "/token", {"type": kind}, token=api_key)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def __enter__(self) -> ManagementClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(
        self,
        method: str,
        path: str,
        params: Mapping[str, str | int] | None = None,
        *,
        token: str | None = None,
        timeout_s: float = _DEFAULT_TIMEOUT_S,
    ) -> Any:
        reply = self._send(method, path, params, token or self._current_token(), timeout_s)
        if token is None and self._key_file is not None and _is_token_refused(reply):
            # It expired, or somebody renewed it, between being read and being judged. Nothing was done: ask again.
            reply = self._send(method, path, params, self._renewed_token(), timeout_s)
        if reply.ok:
            return reply.json() if reply.content.strip() else {}
        message = _error_message(reply)
        if reply.status_code == 404 and path.startswith("/models/"):
            raise ModelNotReadyError(message)
        raise ManagementError(reply.status_code, message)

    def _send(
        self, method: str, path: str, params: Mapping[str, str | int] | None, token: str | None, timeout_s: float
    ) -> requests.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            return self._session.request(
                method, self._base_url + path, params=params, headers=headers, timeout=timeout_s
            )
        except requests.Timeout as e:
            raise DeadlineError(f"{method} {self._base_url}{path}: no answer within {timeout_s:g} s") from e
        except requests.ConnectionError as e:
            raise NotRunningError(f"no server answers at {self._base_url}: {_cause(e)}") from e

    def _current_token(self) -> str | None:
        if self._key_file is None:
            return self._token
        tokens = read_tokens(self._key_file)  # each time: others renew it while we run
        return self._renewed_token() if is_expired(tokens.management_expires) else tokens.management

    def _renewed_token(self) -> str:
        assert self._key_file is not None
        self.new_token("management", read_tokens(self._key_file).api)
        return read_tokens(self._key_file).management


def _is_token_refused(reply: requests.Response) -> bool:
    return reply.status_code == 400 and _error_message(reply).startswith("Token Authorization failed")


def _model_path(model: str, version: str | None) -> str:
    quoted = quote(model, safe="")
    return f"/models/{quoted}" if version is None else f"/models/{quoted}/{quote(version, safe='')}"


def _error_message(reply: requests.Response) -> str:
    """TorchServe's word, or that of the frontend's jar, which has the handler's form."""
    try:
        answer = reply.json()
        return str(answer["error"]["message"] if "error" in answer else answer["message"])
    except (ValueError, KeyError, TypeError):
        return reply.text.strip() or reply.reason


def _cause(error: BaseException) -> str:
    """The innermost reason, without urllib3's wrapping."""
    reason = getattr(error.args[0], "reason", error) if error.args else error
    return str(reason).split(": ", 1)[-1]
