"""OpenVINO: what it runs, what it is refused, and what it must leave alone in the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.forward.choose import compile_forward
from smartbatch_worker.forward.compilers import openvino
from smartbatch_worker.forward.measurements import Measurements

from tests.unit.networks import torch_threads

CPU = torch.device("cpu")


def test_a_signal_is_survived_after_another_thread_freed_what_openvino_made(tmp_path: Path) -> None:
    """As after an idle unload; in a process of its own, which it might end."""
    program = """if True:
        import os, signal, sys, threading, torch
        from pathlib import Path
        from smartbatch_worker.forward.choose import compile_forward
        from smartbatch_worker.forward.measurements import Measurements
        from smartbatch_worker.contract.config import WorkerConfig
        signal.signal(signal.SIGTERM, lambda *_: print("handled"))
        config = WorkerConfig(model="model.py", compile="openvino", input_shape=(3, 32, 32))
        conv, cpu = torch.nn.Conv2d(3, 8, 3), torch.device("cpu")
        with torch.inference_mode():
            made = [compile_forward(conv, config, cpu, (3, 32, 32), Measurements(Path(sys.argv[1])))]
            made[0].forward(torch.ones(2, 3, 32, 32))
        freeing = threading.Thread(target=made.clear)
        freeing.start()
        freeing.join()
        os.kill(os.getpid(), signal.SIGTERM)
    """
    command = [sys.executable, "-c", program, str(tmp_path)]
    handler = Path(openvino.__file__).parents[3]
    done = subprocess.run(command, timeout=120, check=False, cwd=handler, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system tells no affinity")
def test_openvino_leaves_the_choice_of_cores_to_the_system(tmp_path: Path) -> None:
    """Pinned, all workers' threads would share the first cores."""
    config = WorkerConfig(model="model.py", compile="openvino", input_shape=(3, 32, 32))
    with torch.inference_mode(), torch_threads(1):
        made = compile_forward(torch.nn.Conv2d(3, 8, 3), config, CPU, (3, 32, 32), Measurements(tmp_path))
        made.forward(torch.ones(2, 3, 32, 32))
    masks = {frozenset(os.sched_getaffinity(int(task.name))) for task in Path("/proc/self/task").iterdir()}
    assert masks == {frozenset(os.sched_getaffinity(0))}
