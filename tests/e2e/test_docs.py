"""The documents' code blocks, run as a reader would type them, in the order of the page, against real servers.

Changed in what is typed: ports, which must be free ones; `make setup`, whose environment is there; and Ctrl-C, which is
pressed for the reader. A request that is not answered 2xx fails its block. Blocks that are not run say why in the
document (tests/documents.py).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests import documents
from tests.documents import PYTHON, ROOT, SHELL, Block

COPIED = ("archive.sh", "config", "config.properties", "examples")
"""What a reader's commands name in the checkout; programs come from the environment."""
OWN_SERVERS = tuple(f"examples/{name}/README.md" for name in ("digits", "custom_handler", "text", "detection"))
"""Pages that train, archive and serve by themselves, in the order in which they build on each other."""
RUN = [block for block in documents.code_blocks() if block.not_run is None]
ON_THE_SERVER = [
    pytest.param(block, marks=[pytest.mark.mended] if block.mended else [])
    for block in RUN
    if block.page not in OWN_SERVERS and block.language in SHELL
]
ON_THEIR_OWN = [block for page in OWN_SERVERS for block in RUN if block.page == page]
PYTHON_PAGES = sorted({block.page for block in RUN if block.language in PYTHON})

pytestmark = pytest.mark.timeout(900)  # a block is several processes that import torch; nothing is judged by time
PRELUDE = {"docs/models.md": "import torch\nmodel = torch.nn.Conv2d(3, 4, 1)\n"}
"""What a page takes for granted of its reader's program."""


class Tiny(torch.nn.Module):
    """Ten classes of pictures of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 10, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] to [B, 10]."""
        scores: torch.Tensor = self.layer(x)
        return scores.mean((2, 3))


def save_program(path: Path) -> None:
    """The small network, as `torch.export` has it."""
    sizes = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    torch.export.save(torch.export.export(Tiny(), (torch.zeros(2, 3, 8, 9),), dynamic_shapes=(sizes,)), path)


def free_ports() -> dict[str, str]:
    """For each port that documents name, a free one."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return {str(8080 + n): str(each.getsockname()[1]) for n, each in enumerate(sockets)}


class Reader:
    """A checkout, a shell in it, and the ports of the server that runs or is started there."""

    def __init__(self, folder: Path, temporary: Path) -> None:
        self.folder = folder
        self.ports = free_ports()
        self.plain_ports = free_ports()
        """Of a plain TorchServe beside it."""
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("build", "__pycache__"))
            else:
                shutil.copy(source, folder / name)
        (folder / ".venv").symlink_to(sys.prefix)
        (folder / "model_store").mkdir()
        Image.new("RGB", (80, 60), "orange").save(folder / "cat.jpg")
        (folder / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\n")
        config = folder / "config.properties"
        grpc = free_ports()
        config.write_text(
            self._with(self.plain_ports, config.read_text(encoding="utf-8"))
            + f"grpc_inference_port={grpc['8080']}\ngrpc_management_port={grpc['8081']}\n",
            encoding="utf-8",
        )
        for evaluate in folder.glob("examples/*/evaluate.py"):
            evaluate.write_text(self._with(self.ports, evaluate.read_text(encoding="utf-8")), encoding="utf-8")
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}",
            "CURL_HOME": str(folder),
            # A retune waits for what its workers measure, and a network of one small layer gains nothing by it.
            "SMARTBATCH_COMPILE": "off",
            "SMARTBATCH_MICRO_BATCH": "8",
            "TMPDIR": str(temporary),
            "TEMP": str(temporary),  # where TorchServe's launcher tells Java to put the workers' sockets
        }

    def run(self, block: Block) -> str:
        """Type a block of shell; what it printed."""
        return self.type(self.typed(block), str(block))

    def typed(self, block: Block) -> str:
        """A block with what no test can do as it stands."""
        plain = "torchserve --start" in block.text
        text = self._with(self.plain_ports if plain else self.ports, block.text).replace("10.0.0.5", "127.0.0.1")
        text = re.sub(r"^make setup\b", ": make setup", text, flags=re.MULTILINE)
        text = text.replace("smartbatch serve", f"smartbatch serve {self.port_options}")
        until_ctrl_c = re.compile(r"^(\S*smartbatch top\b(?!.*--once)[^#\n]*)", re.MULTILINE)
        # Its exit code is 0, or 130 on a machine so busy that it has only begun to start.
        return until_ctrl_c.sub(r"timeout --preserve-status --signal=INT 4 \1 || [ $? = 130 ] ", text)

    @property
    def port_options(self) -> str:
        """For `smartbatch serve`."""
        names = ("inference", "management", "metrics")
        return " ".join(f"--{name}-port {port}" for name, port in zip(names, self.ports.values(), strict=True))

    def type(self, text: str, what: str, **environment: str) -> str:
        """Run a script that ends at the first command that fails.

        Raises:
            AssertionError: one did.
        """
        done = subprocess.run(
            ["bash", "-euxo", "pipefail", "-c", text],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=800,
        )
        assert done.returncode == 0, f"{what} ends with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def run_python(self, page: str) -> None:
        """All the Python of a page, as one program."""
        program = PRELUDE.get(page, "") + "\n".join(b.text for b in RUN if b.page == page and b.language in PYTHON)
        (self.folder / "typed.py").write_text(self._with(self.ports, program), encoding="utf-8")
        self.type("python -W error typed.py", f"the Python of {page}")

    def stop(self) -> None:
        """End what a block left running."""
        for command in ("smartbatch stop --grace 0", "torchserve --stop"):
            subprocess.run(command.split(), cwd=self.folder, env=self.environment, capture_output=True, check=False)

    @staticmethod
    def _with(ports: dict[str, str], text: str) -> str:
        return re.sub(r"\b808[0-2]\b", lambda port: ports[port[0]], text)


def a_reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    # A worker's socket has a path of at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="docs-") as temporary:
        reader = Reader(tmp_path_factory.mktemp("checkout"), Path(temporary))
        try:
            yield reader
        finally:
            reader.stop()


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """One who has done what `make serve` does: an archive called resnet18, built and served.

    Its network is a small one: MODEL_PATH names a program, as the documents say it may.
    """
    for reader in a_reader(tmp_path_factory):
        program = tmp_path_factory.mktemp("program") / "resnet18.pt2"
        save_program(program)
        reader.environment["MODEL_PATH"] = str(program)
        serve = f"./archive.sh && smartbatch serve {reader.port_options} --workers 1 --detach"
        reader.type(serve, "what `make serve` does")
        yield reader


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """One who has done nothing yet."""
    yield from a_reader(tmp_path_factory)


@pytest.mark.parametrize("block", ON_THE_SERVER, ids=str)
def test_commands_for_a_running_server(block: Block, reader: Reader) -> None:
    said = reader.run(block)
    if block.shown_after is not None:
        compare(said, block.shown_after)


@pytest.mark.parametrize("page", PYTHON_PAGES)
def test_python(page: str, reader: Reader) -> None:
    reader.run_python(page)


@pytest.mark.slow  # a minute; what they use, tests/e2e/models and tests/unit/control/archive test
@pytest.mark.parametrize("block", ON_THEIR_OWN, ids=str)
def test_commands_of_the_examples(block: Block, newcomer: Reader) -> None:
    said = newcomer.run(block)
    if block.shown_after is not None:
        compare(said, block.shown_after)


def compare(said: str, shown: Block) -> None:
    """The answer that a document shows has the keys of one that came."""
    answers = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    keys = [list(answer) for answer in answers]
    assert list(json.loads(shown.text)) in keys, f"{shown} shows other keys than {keys}"
