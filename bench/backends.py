"""The servers that take part, each started once per run on ports of its own."""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from smartbatch.remote.status import wait_measured
from smartbatch.server.batching import resolve_batching
from smartbatch.server.running import RunningServer
from smartbatch.server.settings import ServerSettings
from smartbatch.server.starting import start_server

from bench.load import Body, multipart
from bench.processes import Process
from bench.servers import expert
from bench.servers.options import MAX_BATCH_SIZE, MAX_WAIT_MS
from bench.work import Work

STOCK_PROPERTIES = "disable_token_authorization=true\nenable_model_api=true\nmax_request_size=67108864\n"
"""TorchServe as it comes, but for what the bench needs: registration, no tokens, room for 3 MB bodies."""


MEASURING_TIMEOUT_S = 300.0


class TorchServe:
    """One TorchServe with several models; `smartbatch` says whether on the project's configuration or its own."""

    def __init__(self, name: str, work: Work, smartbatch: bool, models: Mapping[str, tuple[str, int]]) -> None:
        run_dir = work.folder / name
        run_dir.mkdir(parents=True, exist_ok=True)
        settings: dict[str, Any] = {}
        if not smartbatch:
            config = run_dir / "stock.properties"
            config.write_text(STOCK_PROPERTIES)
            settings["base_config"] = config
        environment = {k: v for k, v in os.environ.items() if k.startswith("SMARTBATCH_")}
        for stray in environment:
            del os.environ[stray]
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        self._server: RunningServer = start_server(
            ServerSettings(
                model_store=work.store, run_dir=run_dir, inference_port=0, management_port=0, metrics_port=0, **settings
            )
        )
        self.pid = self._server.pid
        self._is_smartbatch = smartbatch
        for model, (archive, workers) in models.items():
            self.register(model, archive, workers)

    def register(self, model: str, archive: str, workers: int, batch_size: int | None = None) -> None:
        """Serve one more model, and wait until its workers are READY.

        Args:
            model: its name.
            archive: in the model store.
            workers: 0 for as many as `smartbatch serve` starts.
            batch_size: None for `smartbatch serve`'s.
        """
        batching, _ = resolve_batching(None, None, None, {})
        with self._server.management() as client:
            client.register(
                archive,
                model,
                batch_size=batch_size or (batching.batch_size if self._is_smartbatch else MAX_BATCH_SIZE),
                max_batch_delay_ms=batching.max_batch_delay_ms if self._is_smartbatch else MAX_WAIT_MS,
                workers=workers or batching.workers,
            )
            client.wait_ready(model)

    def unregister(self, model: str) -> None:
        """Serve it no more."""
        with self._server.management() as client:
            client.unregister(model)

    def url(self, model: str) -> str:
        """Where to POST."""
        return f"{self._server.inference_url}/predictions/{model}"

    def choices(self, model: str) -> dict[str, str | int]:
        """What a worker of `model` chose by itself and measured, as keys of a handler section; it must be loaded."""
        with self._server.management() as client:
            described = client.describe(model, customized=True).customized or {}
        sizes = list(described["micro_batch"].values())  # none where the archive fixes it
        return {"compile": described["compile"], **({"micro_batch": sizes[0]} if sizes else {})}

    def settle(self, model: str) -> None:
        """Wait until the workers of `model` know how they compute fastest."""
        with self._server.management() as client:
            wait_measured(client, client.describe(model), MEASURING_TIMEOUT_S)

    def body(self, body: Body) -> Body:
        """As it is."""
        return body

    def stop(self) -> None:
        """End it at once."""
        self._server.stop(grace_s=0)


class Peer:
    """One framework's server from bench/servers, in one style; an expert's as it is set up."""

    def __init__(self, module: str, path: str, style: str, work: Work, setup: expert.Setup | None = None) -> None:
        self._module, self._path = module, path
        self._port = _free_port()
        env = {
            "BENCH_STYLE": style,
            "BENCH_PORT": str(self._port),
            "BENCH_WEIGHTS": str(work.weights),
            "BENCH_MODEL_DIR": str(work.model_dir),
        }
        if style == "identical":
            env |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        if setup is not None:
            env |= {"OMP_NUM_THREADS": str(setup.threads), "OMP_WAIT_POLICY": "PASSIVE"}
            env[expert.ENVIRONMENT] = json.dumps(asdict(setup))
        log = work.folder / f"{module}-{style.replace(' ', '-')}.log"
        self._process = Process([sys.executable, "-m", f"bench.servers.{module}"], env, log)
        self.pid = self._process.pid
        workload = "json" if module == "fastapi_reference" and style == "documented" else "jpeg375"
        body = self.body(work.bodies[workload])
        try:
            self._process.wait_until_answers(self.url(""), body.payloads[0], body.content_type)
        except BaseException:
            self._process.stop()
            raise

    def url(self, model: str) -> str:
        """Where to POST; a peer serves one model."""
        return f"http://127.0.0.1:{self._port}{self._path}"

    def body(self, body: Body) -> Body:
        """The same bytes in the envelope that this framework's users send."""
        if self._module == "litserve_server":
            encoded = (json.dumps({"image": base64.b64encode(p).decode()}).encode() for p in body.payloads)
            return Body("application/json", tuple(encoded))
        if self._module in ("bentoml_server", "bentoml_expert"):
            return multipart("images", "image", body.content_type, body.payloads)
        return body

    def stop(self) -> None:
        """End it and all its processes."""
        self._process.stop()


Backend = TorchServe | Peer

TORCHSERVE_EXPERTS = "TorchServe/experts"

PEERS = {
    "FastAPI": ("fastapi_reference", "/predict"),
    "LitServe": ("litserve_server", "/predict"),
    "mosec": ("mosec_server", "/inference"),
    "BentoML": ("bentoml_server", "/classify"),
    "Ray Serve": ("ray_server", "/"),
}
EXPERTS = {
    "LitServe": ("litserve_expert", "/predict"),
    "mosec": ("mosec_expert", "/inference"),
    "BentoML": ("bentoml_expert", "/classify"),
}


def start(key: str, work: Work) -> Backend:
    """Start the backend `key`.

    Args:
        key: smartbatch, smartbatch_bf16, stock, plain (SmartBatch's archive), `<peer>/documented`, `<peer>/identical`,
            a key of `work.setups`, or TorchServe/experts, which begins without a model.
        work: what there is to serve.
    """
    if key == "smartbatch":
        return TorchServe(key, work, True, {key: (f"{key}.mar", 0)})
    if key == "stock":
        # One worker: two of its workers would run two threads each on two cores, which is slower.
        return TorchServe(key, work, False, {"stock": ("stock.mar", 1)})
    if key == "plain":
        return TorchServe(key, work, False, {"smartbatch": ("smartbatch.mar", 0)})
    if key == "smartbatch_bf16":
        return TorchServe(key, work, True, {key: (f"{key}.mar", 0)})
    if key == TORCHSERVE_EXPERTS:
        return TorchServe("experts", work, False, {})
    name, style = key.split("/")
    if (setup := work.setups.get(key)) is not None:
        return Peer(*EXPERTS[name], style, work, setup)
    return Peer(*PEERS[name], style, work)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
