"""`smartbatch score` on Ray: on this machine, and on a cluster of two nodes of which an actor and a node are killed."""

from __future__ import annotations

import io
import json
import os
import secrets
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from smartbatch.scoring.destination import ERRORS, JOB, MANIFEST
from smartbatch.server.ports import free_ports

from tests.faults.archives import derive
from tests.numbered import numbered

pytest.importorskip("ray", reason="the extra ray is not installed; `make soak` installs it")

# Ray's own processes cost more than a budget of minutes has for one command; what they run, tests/contract/
# test_scoring.py and tests/unit/control/scoring test without Ray.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

COMMAND = [sys.executable, "-m", "smartbatch.cli", "score"]
NUM_FILES, PART_ROWS = 240, 10


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """File n holds n, n + 1, n + 2, n + 3."""
    return numbered(tmp_path / "inputs", NUM_FILES)


@pytest.fixture
def environment() -> Iterator[None]:
    """Ray's processes have long paths of sockets, and what a server of the tests has is not theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("SMARTBATCH_COMPILE", "off")
        patch.setenv("SMARTBATCH_MICRO_BATCH", "4")
        yield


def score(source: Path, out: Path, archive: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, str(source), f"--out={out}", f"--model={archive}", *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def check_all(out: Path) -> None:
    """Each file has its row, once, with its own answer."""
    rows = pq.read_table(out).to_pylist()
    assert sorted(Path(row["input"]).name for row in rows) == [f"{n:03}.npy" for n in range(NUM_FILES)]
    for row in rows:
        n = int(Path(row["input"]).stem)
        assert (row["part"], row["row"]) == divmod(n, PART_ROWS)
        assert json.loads(row["answer"]) == {"result": [2.0 * x + 1 for x in range(n, n + 4)]}
    manifest = json.loads((out / MANIFEST).read_text())
    assert (manifest["rows"], manifest["failed"]) == (NUM_FILES, 0)
    assert {path.name for path in out.iterdir()} == {JOB, MANIFEST, *(part["name"] for part in manifest["parts"])}


def wait_for_parts(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    while len(list(out.glob("part-*.parquet"))) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.mark.usefixtures("environment")
def test_on_this_machine_killed_and_gone_on_with(
    tiny_archive: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.setenv("TINY_SLEEP_S", "0.1")
    command = [*COMMAND, str(folder), f"--out={out}", f"--model={tiny_archive}", f"--part-rows={PART_ROWS}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for_parts(out, 3, process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "of 24 parts are done; the same command goes on from there" in said
    assert not (out / MANIFEST).exists()
    before = {path: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}

    done = score(folder, out, tiny_archive, f"--part-rows={PART_ROWS}", "--json")
    assert done.returncode == 0, done.stderr
    assert "of 24 parts are done" in done.stderr
    summary = json.loads(done.stdout)
    assert (summary["rows"], summary["answered"], summary["parts"]) == (NUM_FILES, NUM_FILES, 24)
    check_all(out)
    assert all(path.stat().st_mtime_ns == then for path, then in before.items()), "what was done was done again"
    again = score(folder, out, tiny_archive, f"--part-rows={PART_ROWS}")
    assert again.returncode == 0, again.stderr
    other = score(folder, out, tiny_archive)
    assert other.returncode == 2
    assert "was begun for something else (part_rows was 10, is 1024" in other.stderr


@pytest.mark.usefixtures("environment")
def test_tables_shards_and_failures(tiny_archive: Path, tmp_path: Path) -> None:
    tables, shards = tmp_path / "tables", tmp_path / "shards"
    tables.mkdir()
    shards.mkdir()
    values = pa.array([[float(n)] * (4 if n != 7 else 5) for n in range(50)], pa.list_(pa.float32()))
    pq.write_table(pa.table({"id": list(range(50)), "x": values}), tables / "a.parquet", row_group_size=8)
    done = score(tables, tmp_path / "of-tables", tiny_archive, "--column=x", "--part-rows=16", "--json")
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["failures"] == {"422 wrong_shape": 1}
    assert "1 of 50 rows failed" in done.stderr
    (line,) = (tmp_path / "of-tables" / ERRORS).read_text().splitlines()
    assert json.loads(line)["input"] == f"{tables}/a.parquet#7"
    rows = pq.read_table(tmp_path / "of-tables").to_pylist()
    assert [row["input"] for row in rows] == [f"{tables}/a.parquet#{n}" for n in range(50)]
    assert json.loads(rows[49]["answer"]) == {"result": [99.0] * 4}

    with tarfile.open(shards / "0.tar", "w") as tar:
        for n in range(5):
            stream = io.BytesIO()
            np.save(stream, np.full(4, n, np.float32))
            info = tarfile.TarInfo(f"{n:03}.npy")
            info.size = stream.tell()
            stream.seek(0)
            tar.addfile(info, stream)
    (shards / "1.tar").write_bytes((shards / "0.tar").read_bytes()[:2000])
    cut = score(shards, tmp_path / "of-shards", tiny_archive)
    assert cut.returncode == 1
    assert "1 of 2 parts are not done: part-000001.parquet (1.tar): ReadError" in cut.stderr
    assert "The same command tries them again" in cut.stderr
    assert [row["input"] for row in pq.read_table(tmp_path / "of-shards").to_pylist()] == [
        f"{shards}/0.tar#{n:03}" for n in range(5)
    ]


class Nodes:
    """Ray's own test cluster: a head, and a node of one core beside it."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        self.second: Any = self.cluster.add_node(num_cpus=1)
        self.cluster.wait_for_nodes()

    def actors(self, node: Any) -> list[psutil.Process]:
        """Processes on a node that score."""
        (raylet,) = (each.process for each in node.all_processes["raylet"])
        children = psutil.Process(raylet.pid).children()
        return [child for child in children if "MapWorker" in " ".join(child.cmdline())]


@pytest.fixture
def nodes(environment: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    monkeypatch.setenv("TINY_SLEEP_S", "0.3")
    before = dict(os.environ)
    found = Nodes()
    yield found
    found.cluster.shutdown()
    for name in set(os.environ) - set(before):
        del os.environ[name]


def test_an_actor_and_a_node_are_killed_and_each_row_is_there_once(
    nodes: Nodes, tiny_archive: Path, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [*COMMAND, str(folder), f"--out={out}", f"--model={tiny_archive}", f"--part-rows={PART_ROWS}"]
    command += [f"--address={nodes.cluster.address}", "--batch-size=4"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        wait_for_parts(out, 2, process)
        (first,) = nodes.actors(nodes.cluster.head_node)
        (second,) = nodes.actors(nodes.second)
        first.kill()
        wait_for_parts(out, len(list(out.glob("part-*.parquet"))) + 4, process)
        nodes.cluster.remove_node(nodes.second, allow_graceful=False)
        second.wait(60)
        _, said = process.communicate(timeout=600)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, said
    check_all(out)


@pytest.fixture
def client_address(environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Ray of one node, to be asked from outside, by whoever has its token."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(24))
    (port, client_port, agent_port) = free_ports(3)
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--node-ip-address=127.0.0.1"]
    command += [f"--port={port}", f"--ray-client-server-port={client_port}", f"--runtime-env-agent-port={agent_port}"]
    command += ["--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats"]
    with (tmp_path / "ray.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        yield f"ray://127.0.0.1:{client_port}"
        children = psutil.Process(process.pid).children(recursive=True)
        for each in (*children, psutil.Process(process.pid)):
            each.kill()
        process.wait()


def test_from_outside_of_the_cluster(client_address: str, tiny_archive: Path, folder: Path, tmp_path: Path) -> None:
    arguments = (f"--part-rows={PART_ROWS}", f"--address={client_address}")
    done = score(folder, tmp_path / "out", tiny_archive, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["answered"] == NUM_FILES
    check_all(tmp_path / "out")


DEADLY = """
import os, torch

class Line(torch.nn.Module):
    def forward(self, x):
        if float(x[0, 0]) == 30.0:
            os.kill(os.getpid(), 9)
        return 2 * x + 1
"""


@pytest.mark.usefixtures("environment")
def test_a_row_that_kills_its_process_costs_its_part_alone(
    tiny_archive: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    derive(tiny_archive, tmp_path / "deadly.mar", {"model.py": DEADLY}, {})
    monkeypatch.setenv("SMARTBATCH_MICRO_BATCH", "1")
    out = tmp_path / "out"
    done = score(folder, out, tmp_path / "deadly.mar", f"--part-rows={PART_ROWS}", "--actors=1")
    assert done.returncode == 1
    assert "1 of 24 parts are not done: part-000003.parquet (030.npy): 3 processes died at it" in done.stderr
    names = {path.name for path in out.glob("part-*.parquet")}
    assert names == {f"part-{n:06}.parquet" for n in range(24) if n != 3}
    assert not (out / MANIFEST).exists()


@pytest.mark.usefixtures("environment")
def test_a_model_that_does_not_start_ends_it(tiny_archive: Path, folder: Path, tmp_path: Path) -> None:
    source = (
        "import torch\nclass Line(torch.nn.Module):\n    def __init__(self):\n        raise OSError('no such disk')\n"
    )
    derive(tiny_archive, tmp_path / "broken.mar", {"model.py": source}, {})
    done = score(folder, tmp_path / "out", tmp_path / "broken.mar")
    assert done.returncode == 1
    assert "smartbatch: broken does not start: " in done.stderr
    assert "no such disk" in done.stderr
    assert "Traceback" not in done.stderr
