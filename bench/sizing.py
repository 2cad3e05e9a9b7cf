"""How many machines a rate of requests takes, what they cost, and which part is full first.

    python -m bench.sizing [--rates 1000 100000 10000000] [--host-per-s 135] [--slo-p95-ms 1000] [--body-kb 90]
        [--gbit 10] [--proxy-cores 2] [--proxy-cpu-ms 0.2] [--price-host 1] [--price-proxy 1] [--zones 3]
    python -m bench.sizing --measure-proxy [--body-kb 90]

A cell is some hosts behind a pair of proxies (deploy/haproxy-servers.cfg), one of which suffices. How full hosts may be
is what bench.scaling's simulator says of a cell; larger systems are more cells, so machines grow with the rate and
latency does not. Prices are whatever is given. `--measure-proxy` says what a request costs haproxy on this machine.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from smartbatch.server.ports import free_ports
from smartbatch_load.load.openloop import arrivals
from smartbatch_worker.contract import media_types

from bench.load import Body, run_wrk
from bench.machine import describe
from bench.processes import Process
from bench.scaling import CONFIG, Host, simulate

BATCH_SIZE, DELAY_S, FIXED_ITEMS = 32, 0.010, 4
"""Of a host: a batch's fixed cost is that of so many items."""
MOST_HOSTS = 50
"""Of a cell: so many are simulated, and health-checked by each proxy."""
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85)
"""How full hosts may be; no fuller than the simulator was checked."""
REQUESTS_A_HOST = 600
ERROR = 0.06
"""How far the simulator's p95 was off three real servers at most (docs/scaling.md): kept clear of the objective."""
PROXY_FULL, WIRE_FULL = 0.6, 0.7
"""How full a proxy's cores and its network may be."""
ANSWER_BACKEND = """
global
    tune.bufsize 2097152
defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
frontend answers
    bind "${BIND}"
    option http-buffer-request
    http-request return status 200 content-type application/json string '{"result": [1.0]}'
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """What is known of the machines and the load."""

    host_per_s: float
    """Requests that a host answers in full batches."""
    slo_p95_ms: float
    body_kb: float
    gbit: float
    """Of a proxy's network; each body comes in once and goes out once, on lines of both directions."""
    proxy_cores: int
    proxy_cpu_ms: float
    """Of a core, a request."""
    price_host: float
    """An hour; whatever currency."""
    price_proxy: float
    zones: int
    """Places of which one may be lost; 1: none."""

    @property
    def proxy_per_s(self) -> float:
        """What a proxy's cores carry."""
        return PROXY_FULL * self.proxy_cores * 1000 / self.proxy_cpu_ms

    @property
    def wire_per_s(self) -> float:
        """What its network carries."""
        return WIRE_FULL * self.gbit * 1e9 / 8 / (1000 * self.body_kb)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """Hosts behind a pair of proxies."""

    hosts: int
    per_s: float
    share: float
    """How full its hosts are, of what full batches would give."""
    p95_ms: float
    limit: str
    """What is full first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sized:
    """Machines for a rate."""

    per_s: float
    hosts: int
    cells: int
    gbit: float
    """Of bodies, into all proxies."""
    price: float


def cell(given: Given) -> Cell:
    """The largest that the proxy carries, as full as the objective allows.

    Raises:
        ValueError: no host keeps the objective, however little it has to do.
    """
    least = min(given.proxy_per_s, given.wire_per_s)
    hosts = max(1, min(MOST_HOSTS, math.floor(least / given.host_per_s)))
    item_s = 1 / given.host_per_s
    host = Host(
        fixed_s=FIXED_ITEMS * item_s,
        item_s=item_s * (1 - FIXED_ITEMS / BATCH_SIZE),
        batch_size=BATCH_SIZE,
        delay_s=DELAY_S,
    )

    def p95_ms(share: float) -> float:
        rate = share * given.host_per_s * hosts
        times = list(arrivals(rate, REQUESTS_A_HOST * hosts / rate + 8 * BATCH_SIZE * item_s, poisson=True, seed=2))
        return (1 + ERROR) * simulate([host] * hosts, times, 2 * BATCH_SIZE).p95_ms

    kept = [(share, found) for share in SHARES if (found := p95_ms(share)) <= given.slo_p95_ms]
    if not kept:
        raise ValueError(
            f"--slo-p95-ms must be above {p95_ms(SHARES[0]):.0f}, which hosts have that are {SHARES[0]:.0%} full; "
            f"got {given.slo_p95_ms:g}"
        )
    share, found = kept[-1]
    per_s = min(least, share * given.host_per_s * hosts)
    if per_s < share * given.host_per_s * hosts or hosts < MOST_HOSTS:
        limit = "proxy's cores" if given.proxy_per_s <= given.wire_per_s else "proxy's network"
    else:
        limit = f"{MOST_HOSTS} hosts"
    return Cell(hosts=hosts, per_s=per_s, share=share, p95_ms=found, limit=limit)


def size(per_s: float, one: Cell, given: Given) -> Sized:
    """Machines for a rate, with what is kept for the loss of a zone."""
    spare = given.zones / (given.zones - 1) if given.zones > 1 else 1.0
    hosts = math.ceil(spare * per_s / (one.per_s / one.hosts))
    hosts = max(hosts, given.zones)
    cells = math.ceil(hosts / one.hosts)
    price = hosts * given.price_host + 2 * cells * given.price_proxy
    return Sized(per_s=per_s, hosts=hosts, cells=cells, gbit=per_s * given.body_kb * 8000 / 1e9, price=price)


def table(rates: list[float], given: Given) -> Iterator[str]:
    """Lines of Markdown."""
    one = cell(given)
    hosts = f"{one.hosts} hosts of {given.host_per_s:g}/s, {one.share:.0%} full"
    carries = f"{given.proxy_per_s:.0f}/s by its cores, {given.wire_per_s:.0f}/s by its network"
    yield f"A cell: {hosts}, {one.per_s:.0f}/s, p95 {one.p95_ms:.0f} ms; its limit: {one.limit}."
    yield f"A proxy carries {carries}."
    yield ""
    yield "| requests/s | hosts | cells, of two proxies each | Gbit/s of bodies | price an hour | a million requests |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for rate in rates:
        found = size(rate, one, given)
        million = found.price / (3600 * rate) * 1e6
        machines = f"{found.hosts:,} | {found.cells:,} | {found.gbit:,.1f}"
        yield f"| {rate:,.0f} | {machines} | {found.price:,.0f} | {million:.2f} |"


@contextmanager
def proxied(folder: Path) -> Iterator[tuple[str, int]]:
    """haproxy as it is deployed, before one that answers at once; its address and process."""
    backend = folder / "backend.cfg"
    backend.write_text(ANSWER_BACKEND, encoding="utf-8")
    port, behind, *nobody = free_ports(4)
    answers = Process(["haproxy", "-db", "-f", str(backend)], {"BIND": f"127.0.0.1:{behind}"}, folder / "backend.log")
    env = {"BIND": f"127.0.0.1:{port}", "MAXCONN": "128", "SERVER1": f"127.0.0.1:{behind}"}
    env |= {f"SERVER{n + 2}": f"127.0.0.1:{at}" for n, at in enumerate(nobody)}
    proxy = Process(["haproxy", "-db", "-f", str(CONFIG)], env, folder / "haproxy.log")
    try:
        proxy.wait_until_answers(f"http://127.0.0.1:{port}/predictions/m", b"{}", media_types.JSON)
        yield f"http://127.0.0.1:{port}/predictions/m", proxy.pid
    finally:
        proxy.stop()
        answers.stop()


def measure_proxy(body_kb: float, seconds: float) -> str:
    """What a request costs haproxy, in a sentence."""
    body = Body(media_types.ANY, (b"x" * round(1000 * body_kb),))
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, proxied(Path(folder)) as (url, pid):
        run_wrk(url, body, 64, 2)
        found = run_wrk(url, body, 64, seconds, pid)
    assert not found.num_failed, found
    machine = describe()
    cost = f"{found.server_cpu_ms:.3f} ms of a core a request of {body_kb:g} kB"
    return f"haproxy: {cost}, at {found.requests_per_s:.0f}/s; {machine['cores']} cores of {machine['processor']}"


def main(argv: list[str] | None = None) -> int:
    """Print a table, or measure a proxy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e3, 1e5, 1e7], help="requests a second")
    parser.add_argument("--host-per-s", type=float, default=135.0, help="requests/s of a host in full batches")
    parser.add_argument("--slo-p95-ms", type=float, default=1000.0)
    parser.add_argument("--body-kb", type=float, default=90.0)
    parser.add_argument("--gbit", type=float, default=10.0, help="of a proxy's network")
    parser.add_argument("--proxy-cores", type=int, default=2)
    parser.add_argument("--proxy-cpu-ms", type=float, default=0.2, help="of a core, a request; --measure-proxy says it")
    parser.add_argument("--price-host", type=float, default=1.0, help="an hour")
    parser.add_argument("--price-proxy", type=float, default=1.0, help="an hour")
    parser.add_argument("--zones", type=int, default=3, help="of which one may be lost; 1: none")
    parser.add_argument("--measure-proxy", action="store_true", help="what a request costs haproxy here")
    parser.add_argument("--seconds", type=float, default=8.0, help="of that measurement")
    args = vars(parser.parse_args(argv))
    rates, measured, seconds = args.pop("rates"), args.pop("measure_proxy"), args.pop("seconds")
    for name, value in {**args, "rates": min(rates), "seconds": seconds}.items():
        if value <= 0:
            parser.error(f"--{name.replace('_', '-')} must be above 0, got {value:g}")
    if measured:
        print(measure_proxy(args["body_kb"], seconds))
        return 0
    try:
        for line in table(rates, Given(**args)):
            print(line)
    except ValueError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
