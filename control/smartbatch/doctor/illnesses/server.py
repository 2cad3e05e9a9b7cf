"""Of the server as a whole."""

from __future__ import annotations

from smartbatch.doctor.evidence import ServerEvidence
from smartbatch.doctor.finding import Finding, Severity


def open_to_all(server: ServerEvidence) -> Finding | None:
    """Reachable from elsewhere, and nobody is asked for a token."""
    if server.token_auth is not False or not server.open_addresses:
        return None
    return Finding(
        illness="no-tokens",
        model=None,
        severity=Severity.FAILING,
        share=1.0,
        evidence=f"{', '.join(server.open_addresses)} may be reached from other machines, with tokens off",
        consequence="whoever reaches the management port can register models, and so run code here",
        cure="set `disable_token_authorization=false` in config.properties and start again, or bind to 127.0.0.1",
    )


def stock_frontend(server: ServerEvidence) -> Finding | None:
    """TorchServe's frontend as it came."""
    if server.is_mended:
        return None
    return Finding(
        illness="stock-frontend",
        model=None,
        severity=Severity.NOTE,
        share=0.0,
        evidence=(
            "the frontend runs as TorchServe ships it: `plugins_path` does not name SmartBatch's, or "
            "SMARTBATCH_FRONTEND=stock"
        ),
        consequence=(
            "latencies and refusals are not counted, so less can be told here; what else it lacks: "
            "docs/decisions/frontend.md"
        ),
        cure="start it with `smartbatch serve`, or with the config.properties that comes with SmartBatch",
    )


def behind_proxy(server: ServerEvidence) -> Finding | None:
    """A proxy on the way."""
    if not server.proxies:
        return None
    is_environment = any("no_proxy" in proxy for proxy in server.proxies)
    return Finding(
        illness="proxy-hop",
        model=None,
        severity=Severity.NOTE,
        share=0.0,
        evidence="; ".join(server.proxies),
        consequence=(
            "each request and answer is passed on once more, with limits and timeouts of the proxy's own; latencies "
            "counted here are without it"
        ),
        cure=(
            "export no_proxy=127.0.0.1,localhost, or with the server's own name in it"
            if is_environment
            else "ask the server's own address where clients can; deploy/haproxy.cfg keeps connections open"
        ),
    )
