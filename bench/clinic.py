"""A server with models that are ill on purpose, and clients that ask them."""

from __future__ import annotations

import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import requests
from smartbatch.archive.build import build_archive
from smartbatch.archive.settings import ArchiveSettings
from smartbatch.doctor.evidence import Observer
from smartbatch.doctor.finding import Finding
from smartbatch.doctor.report import Report, examine
from smartbatch.remote.endpoints import Endpoints
from smartbatch.server.running import RunningServer

MODEL = """
import time

import torch


class Behaving(torch.nn.Module):
    def forward(self, x):
        end = time.thread_time() + {burns}  # of a core: more workers than those burn no more in a second
        while time.thread_time() < end:
            x.sum()
        time.sleep({sleeps})
        if bool((x[:, 0] == 666).any()):
            raise RuntimeError("as asked")
        return x.repeat(1, {wide})
"""
WATCH_S = 2.0
SETTLING_S = 0.5
CURE_TIMEOUT_S = 300


class Load(NamedTuple):
    """Attributes:
    clients: how many ask at once, each again when it is answered.
    body: what each of them sends: a JPEG, or JSON.
    pause_s: of each, after an answer.
    """

    clients: int
    body: bytes
    pause_s: float = 0.0


class Clinic:
    """The server, its store, and what is done with both."""

    def __init__(self, server: RunningServer, store: Path) -> None:
        self.server, self.store = server, store
        self.endpoints = Endpoints.of_state(server.state)

    def archive(self, name: str, *, shape: str = "4", overrides: Mapping[str, str] | None = None, **does: Any) -> None:
        """A model that burns CPU, sleeps, or answers at length; it raises where it is sent a 666."""
        source = self.store / f"{name}.py"
        source.write_text(MODEL.format(**{"burns": 0, "sleeps": 0, "wide": 1, **does}), encoding="utf-8")
        build_archive(
            ArchiveSettings(
                name=name, model_file=source, input_shape=shape, output=self.store, overrides=overrides or {}
            )
        )

    @contextmanager
    def registered(self, archive: str, name: str, *, batch: int, delay_ms: int, workers: int = 1) -> Iterator[None]:
        """For the length of the block."""
        with self.server.management() as client:
            client.register(f"{archive}.mar", name, batch_size=batch, max_batch_delay_ms=delay_ms, workers=workers)
            if workers:
                client.wait_ready(name)
            try:
                yield
            finally:
                for version in client.versions(name):
                    client.unregister(name, version.version)

    @contextmanager
    def asking(self, loads: Mapping[str, Load]) -> Iterator[None]:
        """Clients that each wait for an answer before they ask again."""
        ended = threading.Event()

        def client(model: str, load: Load) -> None:
            with requests.Session() as session:
                session.headers["Content-Type"] = "image/jpeg" if load.body[:1] == b"\xff" else "application/json"
                while not ended.is_set():
                    reply = session.post(f"{self.server.inference_url}/predictions/{model}", load.body, timeout=60)
                    pause_s = 0.05 if reply.status_code == 503 else load.pause_s
                    if pause_s:
                        ended.wait(pause_s)

        threads = [
            threading.Thread(target=client, args=(model, load))
            for model, load in loads.items()
            for _ in range(load.clients)
        ]
        for thread in threads:
            thread.start()
        try:
            time.sleep(SETTLING_S)
            yield
        finally:
            ended.set()
            for thread in threads:
                thread.join()

    def examine(self, loads: Mapping[str, Load], seconds: float = WATCH_S) -> Report:
        """What the doctor says of the models meanwhile."""
        with self.asking(loads):
            return examine(
                Observer(self.endpoints).watch(seconds, paced=True), f"--run-dir {self.server.state.run_dir}"
            )

    def cure(self, finding: Finding) -> None:
        """Type what is printed.

        Raises:
            subprocess.CalledProcessError: that fails.
        """
        words = shlex.split(finding.cure)
        if words[0] != "smartbatch":
            raise ValueError(f"not a command: {finding.cure}")
        command = [sys.executable, "-m", "smartbatch.cli", *words[1:]]
        subprocess.run(command, check=True, timeout=CURE_TIMEOUT_S, capture_output=True)


def of_model(report: Report, model: str) -> list[Finding]:
    """What was found of a model, worst first."""
    return [finding for finding in report.findings if finding.model == model]
