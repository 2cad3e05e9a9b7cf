"""How one server is to run: what `smartbatch serve` takes, checked before anything starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from smartbatch_worker.contract import environment

from smartbatch.errors import UsageError
from smartbatch.installation import CONFIG_FILE, files
from smartbatch.server.ports import is_loopback


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSettings:
    """Addresses, folders and access rules of one server.

    Raises:
        UsageError: on a port out of range, a missing folder or file, or a bind that needs tokens.
    """

    model_store: Path
    """Folder with the .mar files; the only place models are loaded from by name."""
    run_dir: Path | None = None
    """For state, logs, keys, generated config; None: $SMARTBATCH_RUN_DIR or .smartbatch/<inference port>."""
    host: str = "127.0.0.1"
    """Address the inference port binds."""
    inference_port: int = 8080
    """0 picks a free port, here and below."""
    management_host: str = "127.0.0.1"
    """Address of the management port: whoever reaches it with a token can run code."""
    management_port: int = 8081
    metrics_host: str = "127.0.0.1"
    """Address of the metrics port; TorchServe never asks a token there."""
    metrics_port: int = 8082
    token_auth: bool = False
    """Ask for tokens on the inference and management ports."""
    token_expiration_min: float = 60.0
    tls_cert: Path | None = None
    """PEM certificate chain; with `tls_key` turns on TLS for inference and for any port not on loopback."""
    tls_key: Path | None = None
    """PEM private key, RSA (TorchServe 0.12 reads no other)."""
    base_config: Path = field(default_factory=lambda: files() / CONFIG_FILE)
    """config.properties to start from."""
    properties: Mapping[str, str] = field(default_factory=dict)
    """TorchServe properties that beat the base config's."""
    vm_args: tuple[str, ...] = ()
    """JVM arguments after the base config's."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Environment for the frontend and its workers, over this process's."""
    imports: tuple[str, ...] | None = None
    """Modules that workers find loaded, beside what all of them need; None: what any of the model store would load."""
    start_timeout_s: float = 120.0
    """How long the frontend may take to listen."""

    def __post_init__(self) -> None:
        for name in ("inference_port", "management_port", "metrics_port"):
            port = getattr(self, name)
            if not 0 <= port <= 65534:
                raise UsageError(f"{name} must be between 0 and 65534, got {port}")
        named = [p for p in (self.inference_port, self.management_port, self.metrics_port) if p]
        if len(set(named)) < len(named):
            raise UsageError(f"inference, management and metrics ports must differ, got {named}")
        if not self.model_store.is_dir():
            raise UsageError(f"model store must be a folder, got {str(self.model_store)!r}")
        if not self.base_config.is_file():
            raise UsageError(f"base config must be a file, got {str(self.base_config)!r}")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise UsageError("--tls-cert and --tls-key belong together")
        for path in (self.tls_cert, self.tls_key):
            if path is not None and not path.is_file():
                raise UsageError(f"TLS certificate and key must be PEM files, got {str(path)!r}")
        if self.token_expiration_min <= 0:
            raise UsageError(f"token_expiration_min must be above 0, got {self.token_expiration_min}")
        for host in (self.host, self.management_host, self.metrics_host):
            if ":" in host:
                raise UsageError(f"TorchServe 0.12 binds IPv4 addresses and names only, got {host!r}")
        for host in (self.host, self.management_host):
            if not is_loopback(host) and not self.token_auth:
                raise UsageError(
                    f"binding {host} lets other machines in and needs token authorization: add --token-auth"
                )

    def address(self, host: str, port: int, *, inference: bool = False) -> str:
        """What TorchServe binds; with a certificate, TLS for inference and for any port not on loopback."""
        tls = self.tls_cert is not None and (inference or not is_loopback(host))
        return f"{'https' if tls else 'http'}://{host}:{port}"


def default_run_dir(inference_port: int) -> Path:
    """$SMARTBATCH_RUN_DIR, else .smartbatch/<inference port> under the current directory."""
    from_env = os.environ.get(environment.RUN_DIR)
    return Path(from_env) if from_env else Path(".smartbatch") / str(inference_port)
