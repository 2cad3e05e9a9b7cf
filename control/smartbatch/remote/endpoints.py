"""Which server a command talks to: one started here, found by its state file, or any TorchServe by address."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from smartbatch_worker.contract import environment

from smartbatch.errors import NotRunningError, UsageError
from smartbatch.remote.state import STATE_FILE, ServerState, UnreadableStateError, read_state

if TYPE_CHECKING:
    from smartbatch.remote.management import ManagementClient

RUNS_DIR = Path(".smartbatch")


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoints:
    """The three addresses of one server, and what it takes to be let in."""

    inference_url: str = "http://127.0.0.1:8080"
    management_url: str = "http://127.0.0.1:8081"
    metrics_url: str = "http://127.0.0.1:8082/metrics"
    token: str | None = None
    """$SMARTBATCH_TOKEN; for a server started here the key file is read instead."""
    state: ServerState | None = None
    """None for a server that has no state file here."""
    is_guess: bool = False
    """Nobody named a server, and none was started from here: these are TorchServe's standard addresses."""

    @classmethod
    def of_state(cls, state: ServerState, token: str | None = None) -> Endpoints:
        """Of a server started here."""
        return cls(
            inference_url=state.inference_url,
            management_url=state.management_url,
            metrics_url=state.metrics_url,
            token=token,
            state=state,
        )

    @property
    def verify(self) -> bool | str:
        """What to check a TLS certificate against."""
        return (self.state.tls_cert if self.state else None) or os.environ.get(environment.CA_CERT) or True

    def management(self) -> ManagementClient:
        """A client for the management API."""
        from smartbatch.remote.management import ManagementClient

        if self.state is not None and self.token is None:
            return ManagementClient.for_state(self.state)
        return ManagementClient(self.management_url, self.token, verify=self.verify)

    def inference_token(self) -> str | None:
        """The token inference requests need, if any."""
        if self.token is not None or self.state is None or not self.state.token_auth:
            return self.token
        from smartbatch.remote.tokens import living_tokens

        return living_tokens(self.state).inference


def find_endpoints(
    run_dir: Path | None = None,
    inference_port: int | None = None,
    *,
    inference_url: str | None = None,
    management_url: str | None = None,
    metrics_url: str | None = None,
) -> Endpoints:
    """The server named, else the only one started from this folder, else TorchServe's standard addresses."""
    token = os.environ.get(environment.TOKEN) or None
    standard = Endpoints(token=token)
    if inference_url or management_url or metrics_url:
        return replace(
            standard,
            inference_url=inference_url or standard.inference_url,
            management_url=management_url or standard.management_url,
            metrics_url=metrics_url or standard.metrics_url,
        )
    try:
        state = find_state(run_dir, inference_port)
    except UnreadableStateError:
        raise  # a server was started from here; whoever means another one says so
    except NotRunningError:
        if run_dir is not None or inference_port is not None:
            raise
        return replace(standard, is_guess=True)
    return Endpoints.of_state(state, token)


def find_state(run_dir: Path | None = None, inference_port: int | None = None) -> ServerState:
    """The state of the server in `run_dir`, or on `inference_port`, or of the only one started from this folder.

    A state file that cannot be read hides its own server and no other.

    Raises:
        NotRunningError: when there is none.
        UnreadableStateError: when there is none but a state file that cannot be read.
        UsageError: when there are several and none is named.
    """
    from_env = os.environ.get(environment.RUN_DIR)
    if run_dir is None and from_env:
        run_dir = Path(from_env)
    if run_dir is None and inference_port is not None:
        run_dir = RUNS_DIR / str(inference_port)
    if run_dir is not None:
        return read_state(run_dir)
    living: list[ServerState] = []
    unreadable: list[UnreadableStateError] = []
    for path in sorted(RUNS_DIR.glob(f"*/{STATE_FILE}")):
        try:
            state = read_state(path.parent)
        except UnreadableStateError as error:
            unreadable.append(error)
        else:
            living += [state] if state.jvm() is not None else []
    if len(living) > 1:
        ports = ", ".join(state.inference_url.rsplit(":", 1)[-1] for state in living)
        raise UsageError(f"several servers run here, name one by --inference-port: {ports}")
    if not living and unreadable:
        raise unreadable[0]
    if not living:
        raise NotRunningError(f"no server was started from here (none in {RUNS_DIR.absolute()})")
    return living[0]
