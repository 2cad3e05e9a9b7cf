"""SmartBatch beside its peers: one run, one machine, one load generator, interleaved rounds, medians.

    python -m bench.peers [--quick] [--out bench/results] [--only TEXT ...] [--set KEY=VALUE ...]

Every contestant serves the same weights and is asked for the same images; each must give eager PyTorch's top class
for all of them before it is measured. Servers that are not being measured are paused.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import report
from bench.cells import BARE, CELLS, EXPERT_TABLES, QUICK, ratios
from bench.experts.run import measure_experts
from bench.judge import Judge
from bench.load import CONNECTIONS, JVM_WARM_UP_S
from bench.machine import describe
from bench.progress import say
from bench.report import TITLES
from bench.work import Work


def run(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Start all, check all, warm all, measure in rounds, stop all; what is known is written after each round."""
    offered = QUICK if args.quick and not args.only else CELLS
    cells = [cell for cell in offered if not args.only or any(text.lower() in cell.key.lower() for text in args.only)]
    if not cells:
        raise SystemExit(f"--only {' '.join(args.only)} matches nothing; there are: {', '.join(c.key for c in CELLS)}")
    machine = describe()
    work = Work(folder, tuple((key, value) for key, _, value in (pair.partition("=") for pair in args.set)))
    say("building weights and archives")
    work.build()
    say(f"reference answers: {work.expected['jpeg375']} {work.expected['json']}")
    judge = Judge(args, work, lambda judge: write(summarise(judge, machine), args.out))
    cells = judge.measurable(cells)
    try:
        # One table after the other: all servers at once would not fit into memory.
        for table in TITLES:
            if table not in EXPERT_TABLES:
                judge.measure_table([cell for cell in cells if cell.table == table])
        measure_experts(judge, [cell for cell in cells if cell.table in EXPERT_TABLES])
    finally:
        judge.end_all()
    return summarise(judge, machine)


def summarise(judge: Judge, machine: dict[str, Any]) -> dict[str, Any]:
    """What has been measured so far, as peers.json holds it."""
    runs: dict[str, list[dict[str, Any]]] = {
        key: [dataclasses.asdict(sample) for sample in taken] for key, taken in judge.samples.items() if taken
    }
    if judge.bare_samples:
        runs[BARE] = list(judge.bare_samples)
    rates = {key: statistics.median(run["requests_per_s"] for run in taken) for key, taken in runs.items()}
    costs = {key: [run["server_cpu_ms"] for run in taken if run["server_cpu_ms"]] for key, taken in runs.items()}
    per_cpu_s = {key: 1000 / statistics.median(values) for key, values in costs.items() if values}
    goodput = {key: found["requests_per_s"] for key, found in judge.goodput.items() if found["requests_per_s"]}
    args = judge.args
    return {
        "machine": machine,
        "settings": {
            "rounds": args.rounds,
            "seconds": args.seconds,
            "connections": args.connections,
            "longest_warm_up": args.longest_warm_up,
            "overrides": args.set,
            "identical_forward": judge.forward,
            "bare_micro_batch": judge.bare_micro_batch,
        },
        "ratios": ratios(rates | goodput),
        "ratios_of_cpu_time": ratios(per_cpu_s),
        "images_per_s": {key: round(rate, 2) for key, rate in rates.items()},
        "images_per_cpu_s": {key: round(rate, 2) for key, rate in per_cpu_s.items()},
        "goodput": judge.goodput,
        "setups": judge.setups,
        "samples": runs,
        "memory_mb": {key: round(value) for key, value in judge.memory_mb.items()},
        "skipped": judge.skipped,
    }


def write(results: dict[str, Any], folder: Path) -> None:
    """peers.json, peers.md and peers.png."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "peers.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "peers.md").write_text(report.markdown(results))
    report.plot(results, folder / "peers.png")


def main(argv: list[str] | None = None) -> int:
    """Run and write peers.json, peers.md and peers.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="eleven minutes: 2 rounds of 4 s, SmartBatch's server kept from table to table, without peers that were "
        "never the fastest",
    )
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    parser.add_argument("--only", nargs="+", default=[], metavar="TEXT", help="cells whose key contains one of these")
    parser.add_argument("--rounds", type=int, help="default 5, quick 2")
    parser.add_argument("--seconds", type=float, help="per cell and round; default 15, quick 4")
    parser.add_argument(
        "--longest-warm-up",
        type=float,
        metavar="SECONDS",
        help=f"of a JVM whose compilers are still busy after {JVM_WARM_UP_S:.0f}; default 180, quick 25, identical 75",
    )
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="handler keys of SmartBatch's archive"
    )
    parser.add_argument("--work", type=Path, help="keep servers' logs and archives here")
    args = parser.parse_args(argv)
    # A bench that is told to stop still ends its servers: SIGTERM unwinds as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    args.rounds = args.rounds or (2 if args.quick else 5)
    args.longest_warm_up = args.longest_warm_up or (JVM_WARM_UP_S if args.quick else 180.0)
    args.seconds = args.seconds or (4.0 if args.quick else 15.0)
    with tempfile.TemporaryDirectory(prefix="smartbatch-bench-") as scratch:
        folder = args.work or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        results = run(args, folder.absolute())
    write(results, args.out)
    print(report.markdown(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
