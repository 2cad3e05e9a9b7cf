"""The server under test: one started for the run, or one the user points at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import requests
from smartbatch.archive.build import ArchiveSettings, build_archive
from smartbatch.archive.settings import DEFAULT_MODEL
from smartbatch.errors import NotRunningError, SmartBatchError
from smartbatch.installation import model_store
from smartbatch.remote.management import ManagementClient
from smartbatch.remote.status import wait_measured
from smartbatch.server.batching import Batching
from smartbatch.server.running import RunningServer
from smartbatch.server.settings import ServerSettings
from smartbatch.server.starting import start_server
from smartbatch_load.load.config import token
from smartbatch_load.load.interrupt import Interrupt
from smartbatch_worker.contract.config import PRECISIONS

READY_TIMEOUT_S = 300.0
MEASURING_TIMEOUT_S = 300.0
DEFAULT_STORE = model_store()


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerUnderTest:
    """The server that a load test asks: one that runs already, or one that is started for it.

    Raises:
        ValueError: a precision that no worker knows.
    """

    model: str = DEFAULT_MODEL
    store: Path = DEFAULT_STORE
    url: str | None = None
    """A server that runs already; None starts one."""
    management_url: str | None = None
    metrics_url: str | None = None
    batching: Batching
    """Of the server that is started."""
    precision: str | None = None
    """Of the server that is started; None leaves it to the archive."""

    def __post_init__(self) -> None:
        if self.precision is not None and self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Where load goes, and where the server's account of it is read."""

    model: str
    inference_url: str
    metrics_url: str | None
    """None where it does not answer: the report then has the client's side only."""
    management: ManagementClient | None
    """None where it does not answer: queue depth stays unknown."""
    server: RunningServer | None = None
    """The server where the run started it."""

    def queue_depth(self) -> float | None:
        """Requests waiting in the model's queue; None where nobody says."""
        if self.management is None:
            return None
        return float(self.management.describe(self.model, timeout_s=5.0).pending_requests)

    def answers_ping(self) -> bool:
        """Whether anything listens; a busy server that answers late still listens."""
        if self.server is not None and not self.server.is_alive:
            return False
        try:
            with requests.Session() as session:
                session.trust_env = False
                session.get(f"{self.inference_url}/ping", timeout=5, verify=False)
        except requests.Timeout:
            return True
        except requests.RequestException:
            return False
        return True


@contextmanager
def running_server(run_dir: Path, server: ServerUnderTest, interrupt: Interrupt) -> Iterator[Target]:
    """A server on free ports, without its model yet; it ends with the block, whatever ends the block."""
    settings = ServerSettings(
        model_store=server.store,
        run_dir=run_dir,
        inference_port=0,
        management_port=0,
        metrics_port=0,
        env={"SMARTBATCH_PRECISION": server.precision} if server.precision else {},
    )
    started = interrupt.call(lambda: start_server(settings), undo=lambda running: running.stop(grace_s=0))
    try:
        yield Target(
            model=server.model,
            inference_url=started.inference_url,
            metrics_url=started.metrics_url,
            management=started.management(),
            server=started,
        )
    finally:
        started.stop(grace_s=0)


def given_target(url: str, model: str, *, management_url: str | None, metrics_url: str | None) -> Target:
    """A server that somebody else runs; its other ports are the next two unless given.

    Raises:
        NotRunningError: nothing answers at `url`.
    """
    url = url.rstrip("/")
    management = ManagementClient(management_url or _neighbour(url, 1), token=token())
    metrics = metrics_url or f"{_neighbour(url, 2)}/metrics"
    bare = Target(model=model, inference_url=url, metrics_url=None, management=None)
    if not bare.answers_ping():
        raise NotRunningError(f"no server answers at {url}")
    return Target(
        model=model,
        inference_url=url,
        metrics_url=metrics if _answers(metrics) else None,
        management=management if _manages(management, model) else None,
    )


def register(target: Target, archive: str, batching: Batching, interrupt: Interrupt) -> None:
    """Register the target's model and wait until every worker is READY.

    Raises:
        DeadlineError: they are not READY in time.
        WorkerStartError: one died twice meanwhile; the message says of what.
    """
    management = target.management
    assert management is not None
    management.register(archive, target.model, **asdict(batching))
    interrupt.watch(lambda: management.wait_ready(target.model, READY_TIMEOUT_S))


def settle(target: Target, interrupt: Interrupt) -> None:
    """Wait until the workers that have loaded the model know how they compute fastest: what is measured stays so."""
    management = target.management
    if management is not None:
        interrupt.watch(lambda: wait_measured(management, management.describe(target.model), MEASURING_TIMEOUT_S))


def given_or_own_target(
    server: ServerUnderTest, run_dir: Path, interrupt: Interrupt, stack: ExitStack, report: Callable[[str], None]
) -> Target:
    """The server the settings name, or one started for as long as `stack` is open, with its model READY.

    Args:
        run_dir: of the server that is started.
        report: told each step.
    """
    if server.url is not None:
        return given_target(
            server.url,
            server.model,
            management_url=server.management_url,
            metrics_url=server.metrics_url,
        )
    archive = ensure_archive(server.model, server.store, interrupt, report)
    report("Starting a server")
    target = stack.enter_context(running_server(run_dir, server, interrupt))
    register(target, archive, server.batching, interrupt)
    return target


def served_as(target: Target) -> dict[str, str]:
    """How the model is served, as the server itself says; the address alone where it says nothing."""
    served = {"model": target.model, "url": target.inference_url if target.server is None else "started for the run"}
    if target.management is None:
        return served
    try:
        status = target.management.describe(target.model, customized=True, timeout_s=30.0)
    except SmartBatchError:
        return served
    served |= {
        "batch size": str(status.batch_size),
        "max delay": f"{status.max_batch_delay_ms} ms",
        "workers": str(len(status.workers)),
    }
    shown = ("precision", "device", "weights", "compile", "threads")
    return served | {
        key: str(status.customized[key]) for key in shown if status.customized and key in status.customized
    }


def ensure_archive(model: str, store: Path, interrupt: Interrupt, report: Callable[[str], None]) -> str:
    """The archive's name in the store; the default model's is built where it is missing.

    Raises:
        ValueError: another model's archive is missing.
    """
    name = f"{model}.mar"
    if (store / name).exists() or (store / model).is_dir():
        return name if (store / name).exists() else model
    if model != DEFAULT_MODEL:
        raise ValueError(f"no archive {store / name}: build it with `smartbatch archive`")
    store.mkdir(parents=True, exist_ok=True)
    interrupt.call(lambda: build_archive(ArchiveSettings(model=model, output=store), report))
    return name


def _neighbour(url: str, offset: int) -> str:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = parts.hostname or "127.0.0.1"
    host = f"[{host}]" if ":" in host else host
    return urlunsplit((parts.scheme, f"{host}:{port + offset}", "", "", ""))


def _answers(url: str) -> bool:
    try:
        with requests.Session() as session:
            session.trust_env = False
            return session.get(url, timeout=5, verify=False).ok
    except requests.RequestException:
        return False


def _manages(management: ManagementClient, model: str) -> bool:
    try:
        management.describe(model, timeout_s=5.0)
    except SmartBatchError:
        return False
    return True
