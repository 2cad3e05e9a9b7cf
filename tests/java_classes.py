"""The file of Java's classes, for a session's servers: half of the CPU of a frontend's start.

    python -m tests.java_classes

Written as a user's second server finds it (control/smartbatch/server/jvm/classes.py), but at once.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from smartbatch.server.jvm import classes
from smartbatch.server.settings import ServerSettings
from smartbatch.server.starting import start_server


def write() -> None:
    """Start a frontend, have the classes written that it has loaded, and end it."""
    with tempfile.TemporaryDirectory(prefix="classes-") as temporary:
        settings = ServerSettings(
            model_store=Path(temporary),
            run_dir=Path(temporary) / "run",
            inference_port=0,
            management_port=0,
            metrics_port=0,
            env={"SMARTBATCH_FORK_SERVER": "off"},
        )
        with start_server(settings) as server:
            if classes.write(server.state, os.environ) is None:
                raise SystemExit((Path(server.state.run_dir) / "logs" / classes.LOG).read_text(errors="replace"))


if __name__ == "__main__":
    write()
