"""KServe's own client asks a server by the Open Inference Protocol, as it comes.

Its package brings FastAPI, the Kubernetes client and pins of its own (450 MB), so it has an environment of its own,
which pip fills: that takes a network, and more than a budget of minutes has for one client.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from smartbatch.server.running import RunningServer

pytestmark = [pytest.mark.slow, pytest.mark.mended, pytest.mark.timeout(900)]

ASK = """
import asyncio, json, sys
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
import numpy as np

url, model = sys.argv[1:]

async def main():
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0, timeout=60))
    ready = [await client.is_server_live(url), await client.is_server_ready(url)]
    ready.append(await client.is_model_ready(url, model))
    answers = {}
    for binary in (False, True):
        numbers = InferInput("data", [2, 4], "FP32")
        numbers.set_data_from_numpy(np.arange(8, dtype=np.float32).reshape(2, 4), binary_data=binary)
        answer = await client.infer(url, InferRequest(model, [numbers], request_id="seven"), model_name=model)
        (output,) = answer.outputs
        answers[str(binary)] = {
            "id": answer.id, "model": answer.model_name, "shape": output.shape, "type": output.datatype,
            "values": output.as_numpy().tolist(),
        }
    wrong = InferInput("data", [1, 3], "FP32")
    wrong.set_data_from_numpy(np.zeros((1, 3), np.float32), binary_data=False)
    try:
        await client.infer(url, InferRequest(model, [wrong]), model_name=model)
        refused = None
    except Exception as error:
        refused = [getattr(getattr(error, "response", None), "status_code", 0), str(error)]
    await client.close()
    print(json.dumps({"ready": ready, "answers": answers, "refused": refused}))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of an environment with KServe's package in it."""
    folder = tmp_path_factory.mktemp("kserve")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    found = folder / "bin" / "python"
    command = [str(found), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "kserve>=0.15"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot install kserve here: {done.stderr.strip().splitlines()[-1]}")
    return found


def ask(python: Path, server: RunningServer) -> Any:
    command = [str(python), "-c", ASK, server.inference_url, "tiny"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_kserves_client_as_it_comes(python: Path, running_server: RunningServer) -> None:
    found = ask(python, running_server)
    assert found["ready"] == [True, True, True]
    for answer in found["answers"].values():
        assert answer["values"] == [[1.0, 3.0, 5.0, 7.0], [9.0, 11.0, 13.0, 15.0]]
        assert (answer["id"], answer["model"], answer["shape"], answer["type"]) == ("seven", "tiny", [2, 4], "FP32")
    status, message = found["refused"]
    assert status == 422, message
