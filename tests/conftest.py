"""What tests share: an exact-answer model, its archive, and a real server that always ends.

The model answers y = 2x + 1, so that any answer can be checked by eye. TINY_SLEEP_S in a server's environment makes
each forward take that long.
"""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from smartbatch.server.forking import choice, fork_server
from smartbatch.server.running import RunningServer
from smartbatch.server.settings import ServerSettings
from smartbatch.server.starting import start_server
from smartbatch_worker.contract.environment import FORK_SERVER, FRONTEND
from xdist.scheduler import LoadScopeScheduling

from tests.disks import mounted

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
"""As servers have it: PyTorch's threads sleep while they wait. On two cores that several processes share, threads that
spin take two to five times the CPU."""
for _name, _value in (("KMP_DUPLICATE_LIB_OK", "True"), ("KMP_INIT_AT_FORK", "FALSE")):
    os.environ.setdefault(_name, _value)  # as scikit-learn does when a test imports it, and every later server has it
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # workers start three times faster from cached bytecode

hypothesis.settings.register_profile(
    "tests",  # the same examples every time, however busy the machine: speed is bench/'s
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("tests")

_FOLDER = "TESTS_FOLDER"
"""Names the session's folder to pytest-xdist's processes. Not SMARTBATCH_: servers refuse those they do not know."""
_WRITING_CLASSES = pytest.StashKey["subprocess.Popen[bytes]"]()
_FORK_SERVER_PROCESS = pytest.StashKey["subprocess.Popen[bytes]"]()


def pytest_configure(config: pytest.Config) -> None:
    """What the servers of all tests have in common; pytest-xdist's processes inherit it.

    One cache of what workers build and measure: not the user's, and paid for once. A test of how it is without one
    takes a folder of its own. One fork server, for importing PyTorch is most of what a worker's start costs
    (OWN_FORK_SERVER names those who do not share). Java's classes, read once (tests/java_classes.py). And Java's first
    compiler only: the second takes half of the CPU of a frontend that lives for seconds, and compiles for minutes to
    come. The tests behind `slow`, which last as long, have both.
    """
    gc.disable()  # while tests are collected: what is imported stays, and looking through it takes a fifth of the time
    if hasattr(config, "workerinput"):
        return
    config.option.loadscopereorder = False  # the order is that of pytest_collection_modifyitems
    folder = Path(tempfile.mkdtemp(prefix="smartbatch-tests-"))
    os.environ[_FOLDER] = str(folder)
    os.environ["SMARTBATCH_CACHE_DIR"] = str(folder / "cache")
    (folder / "cache").mkdir(mode=0o700)
    if config.getoption("markexpr") != "slow":
        os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1")
    if sys.platform == "linux" and not all("tests/unit" in argument for argument in config.args):
        command = fork_server.server_command(sys.executable, fork_server_path(), ["torchvision.transforms.v2"])
        command = [sys.executable, "-c", _UNTIL_PARENT_DIES, *command]
        config.stash[_FORK_SERVER_PROCESS] = subprocess.Popen(command, env=choice.ENVIRONMENT | os.environ)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Let garbage be collected again, and have the file of Java's classes written beside the first tests.

    It costs as much as it saves seven servers.
    """
    gc.freeze()
    gc.enable()
    first = os.environ.get("PYTEST_XDIST_WORKER", "gw0") == "gw0" and not session.config.option.collectonly
    num_tests = sum(item.nodeid.startswith(("tests/e2e/", "tests/faults/")) for item in session.items)
    if first and num_tests > 20:
        command = [sys.executable, "-m", "tests.java_classes"]
        session.config.stash[_WRITING_CLASSES] = subprocess.Popen(command, cwd=Path(__file__).parents[1])


def pytest_unconfigure(config: pytest.Config) -> None:
    """The session's folder goes with it."""
    if _WRITING_CLASSES in config.stash:
        config.stash[_WRITING_CLASSES].wait()
    if _FORK_SERVER_PROCESS in config.stash:
        config.stash[_FORK_SERVER_PROCESS].kill()
        config.stash[_FORK_SERVER_PROCESS].wait()
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ[_FOLDER], ignore_errors=True)


def fork_server_path() -> Path:
    """The socket of the session's fork server, which modules share; nothing is there where none was started."""
    return Path(os.environ[_FOLDER]) / "fork-server"


def fork_server_environment() -> dict[str, str]:
    """For a server to share it, if there is one: its own would import PyTorch once more."""
    return {FORK_SERVER: str(fork_server_path())} if fork_server_path().exists() else {}


_UNTIL_PARENT_DIES = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
os.execv(sys.argv[1], sys.argv[1:])
"""

TINY_MODEL = '''
import os
import time

import torch


class Line(torch.nn.Module):
    """y = 2x + 1."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(2.0))
        self.bias = torch.nn.Parameter(torch.tensor(1.0))
        self.sleep_s = float(os.environ.get("TINY_SLEEP_S", "0"))

    def forward(self, x):
        time.sleep(self.sleep_s)
        return self.weight * x + self.bias
'''

AFFINE_MODEL = """
import torch

class Affine(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 2)

    def forward(self, x):
        return self.linear(x)
"""

StartServer = Callable[..., RunningServer]


# Each test of these starts servers of its own, so the file's tests may run in several processes.
OWN_SERVERS = {f"tests/e2e/test_{name}.py" for name in ("retune", "scale", "serve", "stop", "stress", "study")}

ONE_SERVER = "tests/e2e/models/"
"""All tests of this folder share one server."""

# These share a server of which one ends the fork server, and others watch all processes.
OWN_FORK_SERVER = {
    f"tests/faults/test_{name}.py" for name in ("clients", "frontend", "overload", "rows", "soak", "workers")
}

# These write nothing into the faults' report, and start servers of their own.
WITHOUT_FIGURES = {f"tests/faults/test_{name}.py" for name in ("answers", "start")}

# What takes longest begins first, so that nothing is left to be waited for at the end.
ORDER = (
    "tests/faults/",
    "tests/unit/kernels/test_strict.py",
    "tests/e2e/",
    "tests/contract/",
    "tests/unit/forward/test_managed.py",
    "tests/unit/kernels/convolutions/",
    "tests/unit/control/test_cli.py",
    "tests/unit/flow/",
    "tests/",
)


class ByFile(LoadScopeScheduling):  # type: ignore[misc]
    """Tests of one file, or of `ONE_SERVER`, share servers, so run in one process; all faults do, for their one report.

    pytest-xdist's own way, a marker with `--dist loadgroup`, does nothing with pytest 9.2: it changes node ids no more.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file in OWN_SERVERS:
            return nodeid
        if file.startswith(ONE_SERVER):
            return ONE_SERVER
        return "faults" if file.startswith("tests/faults/") and file not in WITHOUT_FIGURES else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """What runs where, in place of `--dist`."""
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In `ORDER`. With SMARTBATCH_FRONTEND=stock servers have TorchServe's own frontend, which lacks what some test."""
    items.sort(key=lambda item: next(n for n, start in enumerate(ORDER) if item.nodeid.startswith(start)))
    if os.environ.get(FRONTEND) == "stock":
        reason = "TorchServe's frontend as it came lacks this (docs/decisions/frontend.md)"
        for item in items:
            if item.get_closest_marker("mended") is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="module", autouse=True)
def shared_fork_server(request: pytest.FixtureRequest) -> Iterator[None]:
    """Workers and archive checks of the module are forked from the session's fork server, if it shares it."""
    with pytest.MonkeyPatch.context() as patch:
        file = request.path.relative_to(request.config.rootpath).as_posix()
        if file not in OWN_FORK_SERVER:
            for name, value in fork_server_environment().items():
                patch.setenv(name, value)
        yield


@pytest.fixture(autouse=True)
def environment_is_left_as_it_was() -> Iterator[None]:
    """A variable one test leaves behind reaches the servers of every later one."""
    with _unchanged_environment():
        yield


@pytest.fixture(scope="module", autouse=True)
def environment_is_left_as_it_was_by_fixtures() -> Iterator[None]:
    """What a module's fixture leaves, by an import even, does so too."""
    with _unchanged_environment():
        yield


@contextmanager
def _unchanged_environment() -> Iterator[None]:
    before = dict(os.environ)
    yield
    after = dict(os.environ)
    for environment in (before, after):
        environment.pop("PYTEST_CURRENT_TEST", None)
        environment.pop("TORCHINDUCTOR_CACHE_DIR", None)  # torch sets what it would take without, once it compiles
    assert after == before


@pytest.fixture(scope="session")
def built() -> Path:
    """The session's cache: what is compiled there, is compiled once for all tests."""
    return Path(os.environ["SMARTBATCH_CACHE_DIR"])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    with mounted(tmp_path / "disk", "size=64k") as folder:
        yield folder


@pytest.fixture(scope="session")
def tiny_archive() -> Path:
    """`tiny.mar`: y = 2x + 1 on items of shape [4], through the real handler; built by the process that is first."""
    folder = Path(os.environ[_FOLDER]) / "tiny"
    folder.mkdir(exist_ok=True)
    archive = folder / "tiny.mar"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            from smartbatch.archive.build import build_archive  # imports torch, which unit tests do not need
            from smartbatch.archive.settings import ArchiveSettings

            source = folder / "model.py"
            source.write_text(TINY_MODEL, encoding="utf-8")
            build_archive(ArchiveSettings(model_file=source, name="tiny", input_shape="4", output=folder))
    return archive


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with model.py and its weights w.pth: each output is 2 x (sum of the four inputs) + 1."""
    import torch  # which most unit tests do not need

    folder = tmp_path / "affine"
    folder.mkdir()
    (folder / "model.py").write_text(AFFINE_MODEL)
    torch.save({"linear.weight": torch.full((2, 4), 2.0), "linear.bias": torch.ones(2)}, folder / "w.pth")
    return folder


@pytest.fixture(scope="module")
def model_store(tmp_path_factory: pytest.TempPathFactory, tiny_archive: Path) -> Path:
    """A model store of the module's own that holds `tiny.mar`."""
    store = tmp_path_factory.mktemp("store")
    (store / tiny_archive.name).symlink_to(tiny_archive)
    return store


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, model_store: Path) -> Iterator[StartServer]:
    """Start servers on free ports, in folders of their own; each is ended with the module, by pid."""
    started: list[RunningServer] = []

    def start_one(*, tiny_workers: int = 0, batch_size: int = 8, **settings: object) -> RunningServer:
        defaults = {
            "model_store": model_store,
            "run_dir": tmp_path_factory.mktemp("run"),
            "inference_port": 0,
            "management_port": 0,
            "metrics_port": 0,
        }
        server = start_server(ServerSettings(**{**defaults, **settings}))  # type: ignore[arg-type]
        started.append(server)
        if tiny_workers:
            with server.management() as client:
                client.register("tiny.mar", batch_size=batch_size, max_batch_delay_ms=5, workers=tiny_workers)
                client.wait_ready("tiny")
        return server

    yield start_one
    for server in started:
        server.stop(grace_s=0)


@pytest.fixture(scope="module")
def running_server(start: StartServer) -> RunningServer:
    """A server with one worker of `tiny`, shared by the module."""
    return start(tiny_workers=1)
