"""The picture of `smartbatch top`: a server of its own under load, looked at once.

python -m bench.figures.top [--users 32] [--before 8] [--out bench/results]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from smartbatch import ServerSettings, start_server
from smartbatch.server.batching import default_workers

PROJECT = Path(__file__).resolve().parents[2]
LOOK_S = 4
MARGIN_S = 8
"""Of load after the look, which itself takes a while to start."""


def main(argv: list[str] | None = None) -> int:
    """Serve resnet18, send to it, and write top.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=32)
    parser.add_argument("--before", type=float, default=8.0, metavar="SECONDS", help="of load before the look")
    parser.add_argument("--model-store", type=Path, default=PROJECT / "model_store")
    parser.add_argument("--model", default="resnet18", help="an archive there")
    parser.add_argument("--body", type=Path, help="file to send as it is instead of pictures")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="smartbatch-top-") as scratch:
        settings = ServerSettings(
            model_store=args.model_store,
            run_dir=Path(scratch) / "run",
            inference_port=0,
            management_port=0,
            metrics_port=0,
        )
        server = start_server(settings)
        try:
            with server.management() as client:
                client.register(
                    f"{args.model}.mar", args.model, batch_size=32, max_batch_delay_ms=10, workers=default_workers()
                )
                client.wait_ready(args.model)
            look(args, Path(scratch), server.inference_url, server.management_url, server.metrics_url)
        finally:
            server.stop(grace_s=0)
    return 0


def look(args: argparse.Namespace, scratch: Path, inference: str, management: str, metrics: str) -> None:
    """Load the server, and have `smartbatch top` draw what it sees meanwhile.

    Raises:
        subprocess.CalledProcessError: the load or the look failed.
    """
    urls = ["--url", inference, "--management-url", management, "--metrics-url", metrics]
    command = [sys.executable, "-m", "loadtest.cli", "stress", *urls, "--model", args.model]
    command += ["--users", str(args.users), "--steps", "1", "--duration", f"{args.before + LOOK_S + MARGIN_S:g}s"]
    command += ["--out", str(scratch / "load"), *(["--body", str(args.body)] if args.body else [])]
    load = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        answers = scratch / "load" / "raw"
        while not list(answers.glob("requests-*.csv")) and load.poll() is None:
            time.sleep(0.2)  # bodies are made first, and the model is loaded
        time.sleep(args.before)
        top = [sys.executable, "-m", "smartbatch", "top", "--url", metrics, "--once", "--interval", str(LOOK_S)]
        subprocess.run([*top, "--picture", str(args.out / "top.png")], check=True)
    finally:
        if load.poll() is None:
            load.wait()
    if load.returncode:
        raise subprocess.CalledProcessError(load.returncode, command)


if __name__ == "__main__":
    sys.exit(main())
