"""Start a TorchServe that shares nothing with others on this machine.

`start_server` gives each server its own working directory, temporary directory, ports and generated
config.properties, so that several run side by side. The JVM is a child of this process and ends with it.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from smartbatch_worker.contract import environment
from smartbatch_worker.contract.config import WorkerConfig

from smartbatch.errors import StartupError, UsageError
from smartbatch.remote.process_identity import birth, own_birth
from smartbatch.remote.state import KEY_FILE, ServerState
from smartbatch.server.forking import choice, fork_server
from smartbatch.server.forking.imports import imports_of
from smartbatch.server.jvm import classes
from smartbatch.server.jvm.command import jvm_command, site_dir, start_jvm
from smartbatch.server.leftovers import CONFIG_FILE, forget, refuse_second
from smartbatch.server.ports import free_ports, is_free
from smartbatch.server.properties import write_properties
from smartbatch.server.running import RunningServer
from smartbatch.server.settings import ServerSettings, default_run_dir
from smartbatch.server.start_checks import check_free_space, check_letters, short_tmp_dir
from smartbatch.server.stopping.stop_request import remove_requests
from smartbatch.server.torchserve_config import torchserve_properties

_STARTED_LINE = b"Model server started."
_POLL_S = 0.05


def start_server(
    settings: ServerSettings, *, drains_on_sigterm: bool = False, while_waiting: Callable[[], None] = lambda: None
) -> RunningServer:
    """Start TorchServe and return once it listens; no model is registered yet.

    The JVM is ended when the calling thread ends, so call it from a thread that outlives the server.

    Args:
        settings: what to start.
        drains_on_sigterm: this process stops the server without losing a request when it gets SIGTERM, which
            `smartbatch stop` then sends it; else that drains the server itself and leaves this process alone.
        while_waiting: called again and again until TorchServe listens; what it raises ends the start, and nothing is
            left of it.

    Raises:
        UsageError: on a SMARTBATCH_ variable that is unknown or wrong (every worker would refuse to start), a TMPDIR
            that is too long, a full disk, or a path that Java cannot spell here.
        OSError: when the folders cannot be made or written.
        StartupError: when a port is taken, the folder already has a running server, or TorchServe gives up.
    """
    _check_variables({**os.environ, **settings.env})
    settings, grpc_ports, worker_port = _with_ports(settings)
    run_dir = (settings.run_dir or default_run_dir(settings.inference_port)).absolute()
    check_letters([run_dir, settings.model_store.absolute(), settings.base_config.absolute(), site_dir()])
    refuse_second(run_dir)
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    run_dir.mkdir(mode=0o700, exist_ok=True)
    logs = run_dir / "logs"
    logs.mkdir(exist_ok=True)
    (run_dir / KEY_FILE).unlink(missing_ok=True)
    remove_requests(run_dir)

    tmp_dir = short_tmp_dir()
    process = None
    try:
        check_free_space([run_dir, tmp_dir])
        properties, vm_args = torchserve_properties(settings, grpc_ports, worker_port)
        config = run_dir / CONFIG_FILE
        write_properties(config, properties)
        server_args = ["-f", str(config), "-s", str(settings.model_store.absolute()), "-ncs"]
        python, beside = _python(settings, tmp_dir)
        command = jvm_command(vm_args, server_args, tmp_dir, properties.get("plugins_path", ""), python)
        env = _environment(settings, run_dir, tmp_dir)
        command[1:1] = classes.options(command, tmp_dir, env)
        output = logs / "console.log"
        output.write_bytes(b"")
        process = start_jvm(command, run_dir, env, output, beside)
        _wait_started(process, output, settings.start_timeout_s, while_waiting)
        state = _new_state(settings, process.pid, run_dir, tmp_dir, drains_on_sigterm=drains_on_sigterm)
        state.write()
    except BaseException:
        if process is not None:
            process.kill()
            process.wait()
        shutil.rmtree(tmp_dir, ignore_errors=True)
        forget(run_dir)
        raise
    return RunningServer(state, process)


def _with_ports(settings: ServerSettings) -> tuple[ServerSettings, tuple[int, int], int]:
    """Fill in ports given as 0, choose the gRPC and worker ports, and refuse ports in use."""
    fresh = iter(free_ports(6))
    settings = dataclasses.replace(
        settings,
        inference_port=settings.inference_port or next(fresh),
        management_port=settings.management_port or next(fresh),
        metrics_port=settings.metrics_port or next(fresh),
    )
    for what, host, port in (
        ("inference", settings.host, settings.inference_port),
        ("management", settings.management_host, settings.management_port),
        ("metrics", settings.metrics_host, settings.metrics_port),
    ):
        if not is_free(port, host):
            raise StartupError(
                f"{what} port {port} on {host} is in use or not ours to bind: choose another by --{what}-port"
            )
    return settings, (next(fresh), next(fresh)), next(fresh)


def _python(settings: ServerSettings, tmp_dir: Path) -> tuple[str, list[str]]:
    """What workers are started by, and the command of the server that forks them, if one does."""
    variables = {**os.environ, **settings.env}
    if not choice.forks(variables):
        return sys.executable, []
    launcher, own = tmp_dir / "worker-python", tmp_dir / "fork-server"
    address = choice.shared(variables)
    fork_server.write_launcher(launcher, sys.executable, address or own)
    if address:
        return str(launcher), []
    imports = imports_of(settings.model_store.glob("*.mar")) if settings.imports is None else settings.imports
    return str(launcher), fork_server.server_command(sys.executable, own, imports)


def _environment(settings: ServerSettings, run_dir: Path, tmp_dir: Path) -> dict[str, str]:
    env = choice.ENVIRONMENT | os.environ | dict(settings.env)
    env.pop("TSCONFIG_FILE", None)  # would beat the generated config
    return env | {
        "LOG_LOCATION": str(run_dir / "logs"),
        "METRICS_LOCATION": str(run_dir / "logs"),
        "TMPDIR": str(tmp_dir),
    }


def _check_variables(env: Mapping[str, str]) -> None:
    try:
        WorkerConfig.resolve({}, env)
    except ValueError as e:
        raise UsageError(str(e)) from e
    choice.shared(env)
    for name, modes in ((environment.FRONTEND, environment.FRONTEND_MODES), (environment.UI, environment.UI_MODES)):
        if (mode := env.get(name, "")) not in ("", *modes):
            raise UsageError(f"{name} must be {' or '.join(modes)}; got {mode!r}")


def _wait_started(
    process: subprocess.Popen[bytes], output: Path, timeout_s: float, while_waiting: Callable[[], None]
) -> None:
    deadline = time.monotonic() + timeout_s
    while _STARTED_LINE not in output.read_bytes():
        if process.poll() is not None:
            raise StartupError(f"TorchServe stopped while starting: {_reason(output)}")
        if time.monotonic() > deadline:
            raise StartupError(f"TorchServe did not listen within {timeout_s:g} s: {_reason(output)}")
        while_waiting()
        time.sleep(_POLL_S)


def _reason(output: Path) -> str:
    """The line that says why, else the last lines, else where to look."""
    lines = [line for line in output.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    for line in lines:
        for mark in (
            "Failed to bind to address",
            "Invalid configuration",
            "Address already in use",
            "Exception:",
        ):
            if mark in line:
                return f"{line.strip()} (see {output})"
    return f"{' | '.join(lines[-3:]) or 'it said nothing'} (see {output})"


def _new_state(
    settings: ServerSettings, pid: int, run_dir: Path, tmp_dir: Path, *, drains_on_sigterm: bool
) -> ServerState:
    jvm_birth = birth(pid)
    if jvm_birth is None:
        raise StartupError(f"TorchServe (pid {pid}) stopped while starting: see {run_dir / 'logs'}")
    metrics_url = _local(settings.address(settings.metrics_host, settings.metrics_port))
    return ServerState(
        pid=pid,
        pid_birth=jvm_birth,
        supervisor_pid=os.getpid(),
        supervisor_birth=own_birth(),
        supervisor_drains=drains_on_sigterm,
        run_dir=str(run_dir),
        tmp_dir=str(tmp_dir),
        model_store=str(settings.model_store.absolute()),
        inference_url=_local(settings.address(settings.host, settings.inference_port, inference=True)),
        management_url=_local(settings.address(settings.management_host, settings.management_port)),
        metrics_url=f"{metrics_url}/metrics",
        token_auth=settings.token_auth,
        tls_cert=None if settings.tls_cert is None else str(settings.tls_cert.absolute()),
        started_at=time.time(),
    )


def _local(url: str) -> str:
    """The same address as seen from this machine."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:")
