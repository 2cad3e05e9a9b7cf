"""What stands around a server: what its config.properties was changed to say, and what stands before it."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from urllib.parse import urlsplit

import requests
from requests.utils import get_environ_proxies, select_proxy

from smartbatch.installation import CONFIG_FILE, files
from smartbatch.server.properties import read_properties

BEATEN = {"job_queue_size": "jobQueueSize", "default_response_timeout": "responseTimeout"}
"""Keys of config.properties that an archive's model-config.yaml beats, and what they are called there."""
MARKS = ("Via", "X-Envoy-Upstream-Service-Time", "X-Served-By", "X-Cache", "CF-Ray", "Server")
"""Headers of proxies; TorchServe's frontend sets none of them."""
NUM_ASKED = 5
TIMEOUT_S = 5.0


def changed_properties(run_dir: Path | None) -> dict[str, int]:
    """Of the keys in BEATEN, those that the server's config.properties says otherwise than the one shipped."""
    if run_dir is None:
        return {}
    try:
        said, shipped = read_properties(run_dir / CONFIG_FILE), read_properties(files() / CONFIG_FILE)
    except OSError:
        return {}
    return {
        key: int(said[key])
        for key in BEATEN
        if said.get(key, "").isdecimal() and said[key] != shipped.get(key)
    }  # fmt: skip


def proxy_before(inference_url: str, verify: bool | str) -> str | None:
    """What shows that a proxy answers at an address, in words; None where nothing does.

    Args:
        inference_url: asked for /ping a few times, past any proxy of the environment.
        verify: what to check its certificate against.
    """
    took_s = []
    with requests.Session() as session:
        session.trust_env = False
        session.verify = verify
        for _ in range(NUM_ASKED):
            began_s = time.perf_counter()
            try:
                reply = session.get(f"{inference_url}/ping", timeout=TIMEOUT_S)
            except requests.RequestException:
                return None
            took_s.append(time.perf_counter() - began_s)
    marks = [f"`{name}: {reply.headers[name]}`" for name in MARKS if name in reply.headers]
    if not marks:
        return None
    took_ms = 1000 * statistics.median(took_s)
    return f"{inference_url} answers with {', '.join(marks)}, /ping in {took_ms:.1f} ms"


def proxy_of_clients(inference_url: str) -> str | None:
    """The proxy by which programs that follow the environment (curl, requests) ask the server, in words; or None."""
    found = select_proxy(inference_url, get_environ_proxies(inference_url))
    if not found:
        return None
    address = urlsplit(inference_url)
    return f"this environment's {address.scheme}_proxy is {found}, and no_proxy does not name {address.hostname}"
