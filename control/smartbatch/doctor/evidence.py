"""All that is known of a server: two looks at its metrics, its management API, and, on this machine, its processes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from smartbatch_worker.contract import metrics as names
from smartbatch_worker.contract.description import Description

from smartbatch.doctor.processes import CpuSeconds, Memory, Processes
from smartbatch.doctor.surroundings import changed_properties, proxy_before, proxy_of_clients
from smartbatch.errors import NotRunningError
from smartbatch.remote.endpoints import Endpoints
from smartbatch.remote.management import ModelStatus
from smartbatch.remote.process_identity import age_s
from smartbatch.remote.scrape import Samples
from smartbatch.remote.status import describe_workers
from smartbatch.remote.worker_log import WorkerLog
from smartbatch.server.ports import is_loopback
from smartbatch.watch.rates import Look, ModelView, gain, look, view


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerEvidence:
    """What is the same for all models."""

    is_mended: bool
    """The frontend is ours; TorchServe's own counts less."""
    cores: int | None
    """That it may use; None where it is elsewhere."""
    token_auth: bool | None
    """None: not known, it was not started from here."""
    open_addresses: tuple[str, ...]
    """Addresses that others than this machine reach."""
    proxies: tuple[str, ...] = ()
    """Proxies on the way to it: what shows each, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What was seen of one model: the version that answers requests which name none."""

    model: str
    seconds: float
    """That the figures cover."""
    is_since_start: bool
    """Nothing was asked meanwhile: they are all that happened since the server started."""
    status: ModelStatus
    workers: tuple[Description, ...]
    """As they describe themselves; empty: another handler, or none that was free to answer."""
    view: ModelView
    mean_s: float | None
    """A request's latency, on average; None where nobody counts it."""
    queue_s: float | None
    """How long a request waited for a worker, on average."""
    statuses: Mapping[str, float]
    """Answers, by HTTP status."""
    rejected: Mapping[str, float]
    """Of the whole server: refused by the frontend, by reason."""
    restarts: float
    weights_random: bool
    items_per_request: float | None
    cpu: CpuSeconds | None
    """Spent meanwhile; None where that is not known."""
    last_error: str | None
    """That a worker wrote meanwhile; None where there is none, or the logs are elsewhere."""
    num_clients: int | None
    """That waited for each answer, where that is known: those of a probe."""
    changed_properties: Mapping[str, int] = field(default_factory=dict)
    """Of what an archive's configuration beats, what the server's config.properties was changed to say."""
    held_bytes: float | None = None
    """Of requests, that the frontend held when it was last looked at; None: it does not tell."""
    most_held_bytes: float | None = None
    """That it may hold."""
    memory: Memory | None = None
    """Of the workers; None where that is not known."""
    pace_s: float | None = None
    """CPU seconds that a fixed piece of work took meanwhile; None where nobody looked, or the server is elsewhere."""
    server: ServerEvidence

    @property
    def requests(self) -> float:
        """Answered or refused meanwhile."""
        return self.view.rps * self.seconds

    @property
    def failed(self) -> float:
        """Of these, with another status than 2xx."""
        return self.view.errors_per_s * self.seconds

    @property
    def worker(self) -> Description | None:
        """One that describes itself; loaded, where there is such a one."""
        return next((one for one in self.workers if one["loaded"]), next(iter(self.workers), None))

    def config(self, key: str) -> Any:
        """Of the handler; None for another handler."""
        return None if self.worker is None else self.worker["config"].get(key)

    @property
    def in_flight(self) -> int:
        """Requests that wait now or may be in the hands of a worker: no fewer than there are, nearly."""
        return self.status.pending_requests + self.status.batch_size * len(self.status.workers)

    @property
    def batch_s(self) -> float:
        """Seconds of a batch in the handler; 0 where none ran."""
        return sum(self.view.stage_s.values())

    @property
    def busy(self) -> float:
        """The share of the time for which a worker of this model computes."""
        return self.view.batches_per_s * self.batch_s / max(1, len(self.status.workers))

    def times_at(self, pace_s: float | None) -> float:
        """What its times would be in terms of what they are, at another pace: of the share for which cores compute."""
        cpu, cores, worker = self.cpu, self.server.cores, self.worker
        if cpu is None or cores is None or worker is None or worker["device"] != "cpu":
            return 1.0
        if self.pace_s is None or pace_s is None:
            return 1.0
        share = min(1.0, cpu.total / (cores * self.seconds))
        return share * pace_s / self.pace_s + 1.0 - share

    @property
    def queue_capacity(self) -> int:
        """Requests that may wait."""
        return self.status.pending_requests + self.status.queue_remaining


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that counts, at one moment."""

    look: Look
    cpu: CpuSeconds | None


@dataclass(slots=True)
class Observer:
    """Watches one server: `watch`, or `start`, let time go by, `finish`.

    Args:
        endpoints: of the server.
        only: one model; None: all of them.
    """

    endpoints: Endpoints
    only: str | None = None
    num_clients: int | None = None
    """Of the probe that goes on meanwhile."""
    statuses: dict[str, ModelStatus] = field(init=False, default_factory=dict)
    described: dict[str, tuple[Description, ...]] = field(init=False, default_factory=dict)
    """What workers say of themselves, as last asked."""
    _server: ServerEvidence | None = field(init=False, default=None)
    _memory: dict[str, Memory | None] = field(init=False, default_factory=dict)
    _processes: Processes | None = field(init=False, default=None)
    _properties: dict[str, int] = field(init=False, default_factory=dict)
    _log: WorkerLog = field(init=False, default_factory=lambda: WorkerLog(None))
    _before: Snapshot | None = field(init=False, default=None)

    def watch(self, seconds: float, *, paced: bool = False) -> list[Evidence]:
        """Start, wait, finish.

        Args:
            seconds: to wait.
            paced: where the server is on this machine, the pace of that is measured meanwhile.

        Raises:
            SmartBatchError: as `start` has it.
        """
        self.start()
        if not paced or self._processes is None:
            time.sleep(seconds)
            return self.finish()
        from smartbatch.doctor.pace import Pacer  # and with it NumPy

        with Pacer() as pacer:
            time.sleep(seconds)
        return [dataclasses.replace(evidence, pace_s=pacer.pace_s) for evidence in self.finish()]

    def start(self) -> None:
        """Look for the first time.

        Raises:
            SmartBatchError: nothing answers, or there is no such model.
        """
        self.ask_registered()
        self._before = self.snapshot()

    def ask_registered(self) -> None:
        """Which models and workers there are now.

        Raises:
            SmartBatchError: as `start` has it.
        """
        with self.endpoints.management() as client:
            found = [self.only] if self.only else [entry.model_name for entry in client.models()]
            self.statuses = {name: client.describe(name) for name in found}
        if not self.statuses:
            raise NotRunningError(f"no model is registered at {self.endpoints.management_url}")
        pids = [worker.pid for status in self.statuses.values() for worker in status.workers]
        if is_loopback(urlsplit(self.endpoints.management_url).hostname or ""):
            state = self.endpoints.state
            self._processes = Processes.of_server(pids, None if state is None else state.jvm())
        state = self.endpoints.state
        self._log = WorkerLog(None if state is None else Path(state.run_dir) / "logs")
        self._properties = changed_properties(None if state is None else Path(state.run_dir))

    def finish(self) -> list[Evidence]:
        """Look again: what happened meanwhile, by model."""
        before = self._before
        if before is None:
            raise RuntimeError("start() comes before finish()")
        after = self.snapshot()
        self.ask_workers()
        return self.between(before, after, or_since_start=True)

    def ask_workers(self) -> None:
        """What server and workers say of themselves; these are asked through their models' queues."""
        with self.endpoints.management() as client:
            frontend = client.frontend()
            self.statuses = {name: client.describe(name) for name in self.statuses}
            self.described = {
                name: tuple(describe_workers(client, status).values()) for name, status in self.statuses.items()
            }
        for name, status in self.statuses.items():
            pids = [worker.pid for worker in status.workers]
            self._memory[name] = None if self._processes is None else self._processes.memory(pids)
        self._server = self._server_evidence(str(frontend.get("frontend", "")) == "mended")

    def between(self, before: Snapshot, after: Snapshot, *, or_since_start: bool = False) -> list[Evidence]:
        """What happened between two snapshots, by model; `ask_workers` comes first, and nobody is asked anything here.

        Args:
            before: the earlier one.
            after: the later one.
            or_since_start: of a model that was asked nothing, all that happened since the server started.
        """
        return [self._evidence(name, before, after, or_since_start) for name in self.statuses]

    def snapshot(self) -> Snapshot:
        """All that counts, now.

        Raises:
            NotRunningError: no metrics are to be had.
        """
        cpu = None if self._processes is None else self._processes.cpu_seconds()
        return Snapshot(look(self.endpoints.metrics_url, self.endpoints.verify), cpu)

    def _server_evidence(self, is_mended: bool) -> ServerEvidence:
        state, processes = self.endpoints.state, self._processes
        urls = (self.endpoints.inference_url, self.endpoints.management_url, self.endpoints.metrics_url)
        return ServerEvidence(
            is_mended=is_mended,
            cores=None if processes is None else processes.cores,
            token_auth=None if state is None else state.token_auth,
            proxies=tuple(self._proxies()),
            open_addresses=tuple(url for url in urls if not is_loopback(urlsplit(url).hostname or "")),
        )

    def _evidence(self, model: str, before: Snapshot, after: Snapshot, or_since_start: bool) -> Evidence:
        server, status = self._server, self.statuses[model]
        if server is None:
            raise RuntimeError("ask_workers() comes before between()")
        old, new = before.look, after.look
        since_start = or_since_start and not gain(old.samples, new.samples, new.samples.request_counter(), model=model)
        if since_start:
            old = Look(taken_s=new.taken_s - self._age_s(), samples=Samples(()))
        seen = view(model, old, new)
        count = {"model": model, "outcome": names.SUCCESS}
        answered = gain(old.samples, new.samples, f"{names.REQUEST_SECONDS}_count", **count)
        total_s = gain(old.samples, new.samples, f"{names.REQUEST_SECONDS}_sum", **count)
        waited_s = gain(old.samples, new.samples, names.QUEUE_LATENCY, model_name=model)
        handled = gain(old.samples, new.samples, names.REQUESTS, model=model)
        items = gain(old.samples, new.samples, names.ITEMS, model=model)
        return Evidence(
            model=model,
            seconds=new.taken_s - old.taken_s,
            is_since_start=since_start,
            status=status,
            workers=self.described.get(model, ()),
            view=seen,
            mean_s=total_s / answered if answered else None,
            queue_s=waited_s / handled if handled else None,
            statuses=_by(old.samples, new.samples, new.samples.request_counter(), "status", model=model),
            rejected=_by(old.samples, new.samples, names.REJECTED, "reason"),
            restarts=gain(old.samples, new.samples, names.WORKER_RESTARTS, model=model),
            weights_random=bool(new.samples.total(names.WEIGHTS_RANDOM, model=model)),
            items_per_request=items / handled if handled and items else None,
            cpu=None if since_start or before.cpu is None or after.cpu is None else after.cpu.minus(before.cpu),
            last_error=self._log.last_error(status.workers),
            num_clients=self.num_clients,
            changed_properties=self._properties,
            held_bytes=_gauge(new.samples, names.IN_FLIGHT_BYTES),
            most_held_bytes=_gauge(new.samples, names.IN_FLIGHT_LIMIT_BYTES),
            memory=self._memory.get(model),
            server=server,
        )

    def _proxies(self) -> Iterator[str]:
        """On the way to an address that was named, or is a server's that was started here."""
        url = self.endpoints.inference_url
        if self.endpoints.state is None and url == Endpoints().inference_url:
            return
        found = (proxy_before(url, self.endpoints.verify), proxy_of_clients(url))
        yield from (proxy for proxy in found if proxy is not None)

    def _age_s(self) -> float:
        age = None if self.endpoints.state is None else age_s(self.endpoints.state.pid)
        return age if age is not None else 86_400.0


def _gauge(samples: Samples, name: str) -> float | None:
    return samples.total(name) if samples.named(name) else None


def _by(old: Samples, new: Samples, name: str, label: str, **labels: str) -> dict[str, float]:
    """What a counter gained, by one of its labels; without those that gained nothing."""
    values = {sample.labels[label] for sample in new.named(name, **labels) if label in sample.labels}
    gained = {value: gain(old, new, name, **labels, **{label: value}) for value in values}
    return {value: count for value, count in gained.items() if count}
