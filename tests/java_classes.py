"""The classes of TorchServe's frontend, read and checked once for a session: half of the CPU of a frontend's start.

    python -m tests.java_classes FILE

Java calls it class data sharing. A JVM that is told of the file before it is there, or that runs other jars, does
without. It is made by the session, not kept: it holds for one Java, one TorchServe and one jar of ours.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from smartbatch.server.java import java_home
from smartbatch.server.settings import ServerSettings
from smartbatch.server.starting import start_server


def write(archive: Path) -> None:
    """Start a frontend that notes which classes it loads, and have Java write these down as it needs them."""
    with tempfile.TemporaryDirectory(prefix="classes-") as temporary:
        folder = Path(temporary)
        noted, chosen, made = folder / "noted", folder / "chosen", folder / "classes.jsa"
        (folder / "store").mkdir()
        settings = ServerSettings(
            model_store=folder / "store",
            run_dir=folder / "run",
            inference_port=0,
            management_port=0,
            metrics_port=0,
            vm_args=(f"-XX:DumpLoadedClassList={noted}",),
        )
        with start_server(settings) as server:
            java = Path(f"/proc/{server.pid}/cmdline").read_text().split("\0")
        class_path = java[java.index("-cp") + 1]
        # Java 21 crashes over some of the lambdas that it has noted itself.
        lines = noted.read_text().splitlines(keepends=True)
        chosen.write_text("".join(line for line in lines if not line.startswith("@")))
        command = [str(java_home() / "bin" / "java"), "-Xshare:dump", f"-XX:SharedClassListFile={chosen}"]
        command += [f"-XX:SharedArchiveFile={made}", "-XX:+UseSerialGC", "-cp", class_path]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        # Beside its last place first: a JVM that starts now sees a whole file or none.
        unfinished = archive.with_suffix(".unfinished")
        unfinished.write_bytes(made.read_bytes())
        unfinished.rename(archive)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
