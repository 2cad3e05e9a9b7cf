"""The fork server and its stand-ins, as real processes: what is handed over, and that each ends with the other."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil
import pytest
from smartbatch.errors import UsageError
from smartbatch.server.forking import choice, fork_server
from smartbatch.server.forking.imports import imports_of
from smartbatch_worker.contract.environment import FORK_SERVER

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")

FILE = Path(fork_server.__file__)
WITHOUT_IMPORTS = f"""
import runpy, sys
sys.path.insert(0, {str(FILE.parent)!r})
import fork_server
fork_server._IMPORTS = ()
fork_server.main(sys.argv[1:])
"""
WORKER = """
import json, os, sys, time
if sys.argv[1] == "tell":
    told = {"arguments": sys.argv, "folder": os.getcwd(), "variable": os.environ.get("A_VARIABLE"), "path": sys.path}
    told["frontend"] = os.environ["SMARTBATCH_FRONTEND_PID"]
    told["python"] = os.environ["SMARTBATCH_FORKED_PYTHON"]
    print(json.dumps({**told, "main": sys.modules["__main__"].__file__, "input": sys.stdin.read()}))
    print("to stderr", file=sys.stderr)
elif sys.argv[1] == "exit":
    sys.exit(int(sys.argv[2]))
else:
    print(os.getpid(), flush=True)
    while True:
        pass
"""


@pytest.fixture
def worker(tmp_path: Path) -> Path:
    path = tmp_path / "worker.py"
    path.write_text(WORKER)
    return path


class ForkServer:
    """One that imports nothing."""

    def __init__(self, folder: Path) -> None:
        self.address = folder / "s"
        self.launcher = folder / "python"
        fork_server.write_launcher(self.launcher, sys.executable, self.address)
        self.process = subprocess.Popen([sys.executable, "-c", WITHOUT_IMPORTS, "serve", str(self.address)])
        while not self.address.exists():
            assert self.process.poll() is None
            time.sleep(0.01)

    def start(self, arguments: Sequence[object], **options: object) -> subprocess.Popen[str]:
        """As TorchServe starts a worker."""
        return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
            [str(self.launcher), *map(str, arguments)],
            text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ForkServer]:
    made = ForkServer(tmp_path)
    yield made
    made.end()


def ended(started: subprocess.Popen[str]) -> int:
    """Its exit status."""
    started.communicate(timeout=60)
    return started.returncode


def environment(**variables: str) -> Mapping[str, str]:
    return {**os.environ, **variables}


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_gone(pid: int) -> None:
    while not is_gone(pid):
        time.sleep(0.01)


def test_a_worker_is_what_torchserve_started(server: ForkServer, worker: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    variables = environment(A_VARIABLE="\u00e9", PYTHONPATH=f"{tmp_path}:/elsewhere")
    started = server.start([worker, "tell", "a b"], env=variables, cwd=tmp_path / "model", stdin=subprocess.PIPE)
    said, errors = started.communicate("input", timeout=60)
    assert started.returncode == 0, errors
    told = json.loads(said)
    assert told["arguments"] == [str(worker), "tell", "a b"]
    assert int(told["frontend"]) == os.getpid(), "who started the stand-in, not who forked"
    assert (told["main"], told["variable"], told["input"]) == (str(worker), "\u00e9", "input")
    assert told["folder"] == str(tmp_path / "model")
    assert told["path"][:3] == [str(worker.parent), str(tmp_path), "/elsewhere"]
    assert str(FILE.parent) not in told["path"]
    assert errors == "to stderr\n"
    assert server.process.poll() is None
    children = psutil.Process(server.process.pid).children
    again = subprocess.Popen([*shlex.split(told["python"]), worker, "hang"], stdout=subprocess.PIPE, text=True)
    assert again.stdout is not None
    pid = int(again.stdout.readline())
    assert pid in [child.pid for child in children()], "forked as the worker was that asked for it"
    again.kill()
    assert again.wait(60) == -signal.SIGKILL
    again.stdout.close()


COUNTING = """
import sys
from smartbatch_worker.process.siblings import board_path, num_workers
print("started", flush=True)
sys.stdin.readline()
print(num_workers(), board_path())
"""


def test_forked_workers_count_each_other(server: ForkServer, tmp_path: Path) -> None:
    """By the name that TorchServe's script has; one that ended does not count."""
    script = tmp_path / "model_service_worker.py"
    script.write_text(COUNTING)
    both = [server.start([script], stdin=subprocess.PIPE) for _ in range(2)]
    unreaped = subprocess.Popen([sys.executable, "-c", ""])
    wait_gone(unreaped.pid)  # a zombie from now on, as a worker is until its frontend has looked
    for each in both:  # one that was only asked for does not count yet
        assert each.stdout is not None
        assert each.stdout.readline() == "started\n"
    told = [each.communicate("go\n", timeout=60)[0].split() for each in both]
    unreaped.wait()
    assert [number for number, _ in told] == ["2", "1"]
    assert {Path(board).name for _, board in told} == {f"smartbatch-{os.getpid()}-busy"}


def test_a_module_is_run_as_python_does(server: ForkServer, tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "told.py").write_text(WORKER)
    variables = environment(PYTHONPATH="/elsewhere", PYTHONDONTWRITEBYTECODE="1")
    started = server.start(["-m", "package.told", "tell", "a b"], env=variables, cwd=tmp_path, stdin=subprocess.PIPE)
    said, errors = started.communicate("", timeout=60)
    assert started.returncode == 0, errors
    told = json.loads(said)
    assert told["arguments"] == [str(tmp_path / "package" / "told.py"), "tell", "a b"]
    assert told["path"][:2] == [str(tmp_path), "/elsewhere"]
    assert not (tmp_path / "package" / "__pycache__").exists()


@pytest.mark.parametrize("status", [0, 1, 3])
def test_its_exit_status_is_the_stand_ins(server: ForkServer, worker: Path, status: int) -> None:
    assert ended(server.start([worker, "exit", status])) == status


def test_a_killed_worker_is_seen(server: ForkServer, worker: Path) -> None:
    started = server.start([worker, "hang"])
    assert started.stdout is not None
    os.kill(int(started.stdout.readline()), signal.SIGKILL)
    assert ended(started) == -signal.SIGKILL


@pytest.mark.parametrize("server_lives", [True, False])
def test_a_worker_that_hangs_ends_with_its_stand_in(server: ForkServer, worker: Path, server_lives: bool) -> None:
    started = server.start([worker, "hang"])
    assert started.stdout is not None
    pid = int(started.stdout.readline())
    if not server_lives:
        server.end()
        assert not is_gone(pid), "a worker outlives the fork server"
    started.kill()
    wait_gone(pid)
    ended(started)


def test_signals_that_torchserve_ignores_its_workers_ignore(server: ForkServer, worker: Path) -> None:
    """A stop that signals every process there is, as systemd's may, is for whoever drains."""
    ignoring = ["sh", "-c", 'trap \'\' TERM HUP; exec "$0" "$@"', str(server.launcher), str(worker), "run"]
    with subprocess.Popen(ignoring, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        process = psutil.Process(int(started.stdout.readline()))
        for number in (signal.SIGTERM, signal.SIGHUP):
            process.send_signal(number)
        time.sleep(0.1)
        assert process.status() == psutil.STATUS_RUNNING
        started.kill()


def test_without_a_server_a_worker_starts_by_itself_and_says_so(server: ForkServer, worker: Path) -> None:
    server.end()
    started = server.start([worker, "exit", 3])
    _, errors = started.communicate(timeout=60)
    assert started.returncode == 3
    assert "this worker starts without the fork server" in errors


def test_variables_that_libraries_read_when_they_load_must_be_the_servers(server: ForkServer, worker: Path) -> None:
    started = server.start([worker, "exit", 3], env=environment(OMP_NUM_THREADS="7"))
    _, errors = started.communicate(timeout=60)
    assert started.returncode == 3
    assert "it was started with another OMP_NUM_THREADS" in errors


def test_variables_that_a_clients_own_imports_set_are_no_reason(server: ForkServer, worker: Path) -> None:
    """scikit-learn's, which a program has once it has imported it."""
    started = server.start([worker, "exit", 3], env=environment(KMP_INIT_AT_FORK="any", KMP_DUPLICATE_LIB_OK="any"))
    _, errors = started.communicate(timeout=60)
    assert (started.returncode, errors) == (3, "")


def test_why_it_refused_is_told_even_if_it_closed_before_all_was_sent(tmp_path: Path, worker: Path) -> None:
    address, launcher = tmp_path / "s", tmp_path / "python"
    fork_server.write_launcher(launcher, sys.executable, address)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen()
        more_than_a_socket_holds = environment(**{f"A_VARIABLE_{i}": 100_000 * "x" for i in range(5)})
        command = [str(launcher), str(worker), "exit", "3"]
        started = subprocess.Popen(command, env=more_than_a_socket_holds, stderr=subprocess.PIPE, text=True)
        connection, _ = listener.accept()
        with connection:
            connection.recv(1)
            connection.sendall(b'{"refused": "it is being tested"}\n')
    _, errors = started.communicate(timeout=60)
    assert started.returncode == 3
    assert "it is being tested" in errors


def test_what_is_no_request_harms_nobody(server: ForkServer, worker: Path) -> None:
    for nonsense in (b"", b"{}\n", b"\xff" * 100):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(server.address))
            client.sendall(nonsense)
            client.shutdown(socket.SHUT_WR)
            client.recv(1000)
    assert ended(server.start([worker, "exit", 0])) == 0


def test_files_that_come_with_nonsense_are_closed(server: ForkServer, worker: Path) -> None:
    process = psutil.Process(server.process.pid)
    assert ended(server.start([worker, "exit", 0])) == 0  # by then it has opened what it needs
    before, rounds = process.num_fds(), 10
    for sent, files in rounds * ((b"{}\n", [0, 1]), (b"no JSON\n", [0, 1, 2, 2]), (b'{"half', [0, 1, 2, 2])):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(server.address))
            socket.send_fds(client, [sent], files)
            client.shutdown(socket.SHUT_WR)
            client.recv(1000)
    assert ended(server.start([worker, "exit", 0])) == 0
    # A worker's own are closed after its stand-in has heard: up to four are there or not, at either count.
    assert process.num_fds() < before + rounds


def test_a_worker_that_cannot_begin_ends_and_the_server_lives(server: ForkServer, worker: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    ours, workers = socket.socketpair()
    with socket.socket(socket.AF_UNIX) as client, ours, workers:
        client.connect(str(server.address))
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        request = {"arguments": [str(worker), "exit", "0"], "environment": variables, "folder": str(gone / "deeper")}
        socket.send_fds(client, [json.dumps(request).encode() + b"\n"], [0, 1, 2, workers.fileno()])
        lines = client.makefile("rb")
        assert json.loads(lines.readline())["pid"] > 0
        assert os.waitstatus_to_exitcode(json.loads(lines.readline())["status"]) == 1
        lines.close()
    assert ended(server.start([worker, "exit", 0])) == 0


def test_a_running_one_is_shared_by_all_that_are_told_of_it(server: ForkServer) -> None:
    assert choice.shared({FORK_SERVER: str(server.address)}) == server.address
    command = choice.python_command({FORK_SERVER: str(server.address)})
    assert command[-2:] == [str(server.address), sys.executable]
    for said in ("", "on", "off"):
        assert choice.shared({FORK_SERVER: said}) is None
        assert choice.python_command({FORK_SERVER: said}) == [sys.executable]
    assert choice.forks({})
    assert not choice.forks({FORK_SERVER: "off"})


@pytest.mark.parametrize("said", ["/nowhere", "relative", "/dev/null"])
def test_what_is_no_fork_server_is_named(said: str) -> None:
    with pytest.raises(
        UsageError, match=f"must be on, off, or the absolute path of a fork server's socket; got '{said}'"
    ):
        choice.shared({FORK_SERVER: said})


def test_many_at_once(server: ForkServer, worker: Path) -> None:
    started = [server.start([worker, "exit", number]) for number in range(8)]
    assert [ended(each) for each in started] == list(range(8))


@pytest.mark.parametrize(
    ("section", "wanted"),
    [
        ("model: resnet18", ("torchvision.transforms.v2",)),
        ("model: model.py\n  input_shape: [4]", ()),
        ("inputs: {image: {shape: [3, 8, 8], image: true}}", ("torchvision.transforms.v2",)),
        ("inputs: {ids: {dtype: int64, shape: [L], pad: 0}}", ()),
        ("what: is this", ()),
    ],
)
def test_torchvision_is_loaded_for_models_of_pictures(tmp_path: Path, section: str, wanted: tuple[str, ...]) -> None:
    with zipfile.ZipFile(tmp_path / "m.mar", "w") as mar:
        mar.writestr("model-config.yaml", f"handler:\n  {section}\n")
    assert imports_of([tmp_path / "m.mar"]) == wanted


def test_what_is_no_archive_of_ours_asks_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "broken.mar").write_bytes(b"PK")
    (tmp_path / "folder").mkdir()
    assert imports_of([tmp_path / "broken.mar", tmp_path / "folder", tmp_path / "absent.mar"]) == ()
