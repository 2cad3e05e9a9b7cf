"""A server as TorchServe's users often have it, what doctor says of it, what it becomes, and what tune makes of that.

    python -m bench.worked_example [--slo-p95-ms 500] [--clients 16] [--out docs/worked-example]

ResNet18 registered with TorchServe's own defaults on more workers than there are cores. `smartbatch doctor --probe` is
asked, and the command it prints for the worst is typed, until it finds nothing that costs latency or throughput; then
`smartbatch tune --apply`. Before and after each, the same clients send JPEGs for as long. Every command is run as a
user types it; what they said, and the figures between, are written as JSON and drawn.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from smartbatch.doctor.evidence import Observer
from smartbatch.doctor.finding import ON_A_RUNNING_SERVER
from smartbatch.doctor.probe import Probe
from smartbatch.remote.endpoints import Endpoints
from smartbatch.server.running import RunningServer
from smartbatch.server.settings import ServerSettings
from smartbatch.server.starting import start_server
from smartbatch.simulation.costs import Setting
from smartbatch_load.draw.plots import BLUE, GREY, VERMILION, new_figure, save, tidy

from bench.load import warm_up_jvm
from bench.machine import describe
from bench.progress import say
from bench.work import Work

MODEL = "resnet18"
BAD = Setting(batch_size=1, max_batch_delay_ms=100, workers=4)
"""What TorchServe registers a model with where nobody says otherwise; the workers of somebody who wants more speed."""
MOST_CURES = 4
LONGEST_JVM_S = 60.0
NAME = "worked-example"


class Patient:
    """The server, and the clients' view of it."""

    def __init__(self, work: Work, clients: int, seconds: float) -> None:
        self.clients, self.seconds = clients, seconds
        self.server: RunningServer = start_server(
            ServerSettings(
                model_store=work.store,
                run_dir=work.folder / "run",
                inference_port=0,
                management_port=0,
                metrics_port=0,
            )
        )
        self.endpoints = Endpoints.of_state(self.server.state)
        self.photo = work.folder / "photo.jpg"
        self.photo.write_bytes(work.photos[0])
        with self.server.management() as client:
            client.register(
                f"{MODEL}.mar",
                batch_size=BAD.batch_size,
                max_batch_delay_ms=BAD.max_batch_delay_ms,
                workers=BAD.workers,
            )
            client.wait_ready(MODEL)
        url = f"{self.server.inference_url}/predictions/{MODEL}"
        say(warm_up_jvm(url, work.bodies["jpeg375"], clients, self.server.pid, LONGEST_JVM_S))

    def look(self, what: str) -> dict[str, Any]:
        """How the clients are served now."""
        body = (self.photo.read_bytes(), "image/jpeg")
        with Probe(self.endpoints, MODEL, body, self.clients):
            (evidence,) = Observer(self.endpoints, MODEL, self.clients).watch(self.seconds)
        view, status = evidence.view, evidence.status
        seen = {
            "what": what,
            "batch_size": status.batch_size,
            "max_batch_delay_ms": status.max_batch_delay_ms,
            "workers": len(status.workers),
            "requests_per_s": round(view.rps, 1),
            "p50_ms": None if view.p50_s is None else round(1000 * view.p50_s),
            "p95_ms": None if view.p95_s is None else round(1000 * view.p95_s),
            "avg_batch_size": None if view.avg_batch_size is None else round(view.avg_batch_size, 1),
            "failed": round(evidence.failed),
        }
        say(f"{what}: {seen['requests_per_s']} requests/s, p95 {seen['p95_ms']} ms")
        return seen

    def type(self, command: str, *accepted: int) -> subprocess.CompletedProcess[str]:
        """Run what a user types.

        Raises:
            RuntimeError: it ended otherwise than it may.
        """
        words = shlex.split(command)
        assert words[0] == "smartbatch"
        named = [] if "--run-dir" in words else ["--run-dir", str(self.server.run_dir)]
        line = [sys.executable, "-m", *words, *named]
        say(f"$ {command}")
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode not in (0, *accepted):
            raise RuntimeError(f"{command} ended with {done.returncode}: {done.stderr}")
        return done


def example(patient: Patient, slo_p95_ms: float, out: Path) -> dict[str, Any]:
    """From the bad server to the tuned one."""
    doctor = f"smartbatch doctor {MODEL} --probe --clients {patient.clients} --body {patient.photo} --json"
    seen = [patient.look("as it was")]
    cures: list[dict[str, Any]] = []
    while len(cures) < MOST_CURES:
        findings = json.loads(patient.type(doctor, 8, 9).stdout)["findings"]
        worst = next((one for one in findings if _is_to_type(one)), None)
        if worst is None:
            break
        cures.append(worst)
        patient.type(worst["cure"])
        seen.append(patient.look(worst["illness"]))
    tune = f"smartbatch tune {MODEL} --slo-p95-ms {slo_p95_ms:g} --clients {patient.clients} --body {patient.photo}"
    tuned = json.loads(patient.type(f"{tune} --apply --out {out} --json", 1).stdout)
    seen.append(patient.look("tuned"))
    return {
        "machine": describe(),
        "slo_p95_ms": slo_p95_ms,
        "clients": patient.clients,
        "seen": seen,
        "cures": cures,
        "tuned": {key: tuned[key] for key in ("trials", "best", "seconds", "requests", "meets_objective")},
    }


def _is_to_type(finding: Mapping[str, Any]) -> bool:
    """A command of ours that changes the running server, for something that costs."""
    return finding["severity"] != "note" and str(finding["cure"]).startswith(ON_A_RUNNING_SERVER)


def draw(path: Path, found: Mapping[str, Any]) -> None:
    """Rate and p95 of each step, side by side."""
    figure = new_figure(3.6, "From a bad server to a tuned one", f"{found['clients']} clients, ResNet18, JPEG")
    rate, p95 = figure.subplots(1, 2, sharey=True)
    names = [
        f"{number}. {one['what']}\n{one['batch_size']} / {one['max_batch_delay_ms']} ms / {one['workers']}"
        for number, one in enumerate(found["seen"], 1)
    ]
    for axes, key, color, label in (
        (rate, "requests_per_s", BLUE, "requests / s"),
        (p95, "p95_ms", GREY, "p95 (ms)"),
    ):
        bars = axes.barh(names, [one[key] for one in found["seen"]], color=color, height=0.6)
        axes.bar_label(bars, fmt="%.0f", padding=3, fontsize=9)
        axes.margins(x=0.15)
        tidy(axes, "", label)
    p95.axvline(found["slo_p95_ms"], color=VERMILION, linewidth=1)
    rate.invert_yaxis()
    rate.set_ylabel("batch / delay / workers")
    save(figure, path)


def main(argv: Sequence[str] | None = None) -> int:
    """Make the example; write its JSON and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slo-p95-ms", type=float, default=500.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each look")
    parser.add_argument("--out", type=Path, default=Path("docs/worked-example"))
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="smartbatch-bench-") as scratch:
        work = Work(Path(scratch))
        say("building weights and an archive")
        work.build()
        work.archive(MODEL, {})
        patient = Patient(work, args.clients, args.seconds)
        try:
            found = example(patient, args.slo_p95_ms, Path(scratch) / "tuning")
        finally:
            patient.server.stop(grace_s=0)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"{NAME}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(args.out / f"{NAME}.png", found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
