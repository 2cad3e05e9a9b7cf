"""/openapi.json is true: each of its operations is asked of a real server, and each answer is held against it."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import requests
from jsonschema import Draft202012Validator
from PIL import Image

from tests.e2e.models.brought_along import EXAMPLE, LABELS
from tests.e2e.models.model_server import TIMEOUT_S, ModelServer
from tools import openapi

pytestmark = pytest.mark.mended

TENSOR = {"name": "data", "shape": [1, 3, 2, 2], "datatype": "FP32", "data": [0.5] * 12}
VERSION = "1.0"


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(stream, "PNG")
    return stream.getvalue()


def npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, ids=np.array(EXAMPLE["inputs"]["ids"]), mask=np.array(EXAMPLE["inputs"]["mask"]))
    return stream.getvalue()


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of an operation, and the status that it has to be answered with."""

    status: int = 200
    model: str = "shades"
    body: Any = None
    """Bytes, or what is sent as JSON."""
    type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


PICTURE = Ask(body=png(), type="image/png")
NUMBERS = Ask(body={"data": [[0.1, 0.2], [0.3, 0.4]]})
NOBODY = Ask(404, "nobody", {"data": [1]})
PREDICTIONS = [
    PICTURE,
    NUMBERS,
    NOBODY,
    Ask(body=png(), type="application/octet-stream", headers={"X-SmartBatch-Output": "labels"}),
    Ask(body=png(), type="image/png", headers={"X-SmartBatch-Output": "raw", "X-SmartBatch-Timing": "on"}),
    Ask(body={"data": base64.b64encode(png()).decode()}),
    Ask(model="sum", body=EXAMPLE),
    Ask(model="sum", body=npz(), type="application/x-npz"),
    *(
        Ask(body=png(), type="image/png", headers={"Accept": f"application/x-{kind}"})
        for kind in ("npy", "npz", "safetensors")
    ),
    Ask(400, body=b'{"data": ['),
    Ask(400, body=b"{}", headers={"X-Request-Deadline-Ms": "soon"}),
    Ask(406, body=png(), type="image/png", headers={"Accept": "image/gif"}),
    Ask(413, body={"data": [[[[1.0]]] * 3] * 300}),
    Ask(415, body=b"\x00\x01", type="application/octet-stream"),
    Ask(422, body={"data": [[[[[1.0]]]]]}),
    Ask(422, "sum", {"inputs": {"nothing": [1]}}),
    Ask(504, body=png(), type="image/png", headers={"X-Request-Deadline-Ms": "1", "X-Request-Start": "t=1"}),
]
INFERS = [
    Ask(body={"inputs": [TENSOR], "id": "7"}),
    Ask(400, body={"inputs": []}),
    Ask(422, body={"inputs": [{**TENSOR, "name": "nothing"}]}),
    Ask(404, "nobody", {"inputs": [TENSOR]}),
]
HERE_OR_NOT = [Ask(), Ask(404, "nobody")]
ASKED = {
    "predict": PREDICTIONS,
    "predictVersion": [PICTURE, NOBODY],
    "predictV1": [Ask(body={"instances": [{"b64": base64.b64encode(png()).decode()}]}), NOBODY],
    "infer": INFERS,
    "inferVersion": INFERS,
    "model": HERE_OR_NOT,
    "version": HERE_OR_NOT,
    "modelReady": HERE_OR_NOT,
    "versionReady": HERE_OR_NOT,
} | {
    name: [Ask()] for name in ("server", "v2Live", "v2Ready", "live", "ready", "ping", "page", "figures", "description")
}


@pytest.fixture(scope="module")
def told(models: ModelServer) -> dict[str, Any]:
    """As the server tells it."""
    reply = requests.get(f"{models.url}/openapi.json", timeout=TIMEOUT_S)
    assert reply.headers["Content-Type"] == "application/json"
    found: dict[str, Any] = reply.json()
    return found


def check(schema: Any, document: dict[str, Any], value: Any) -> None:
    """Hold a value against a schema of the document, whose references are from its root."""
    Draft202012Validator({**schema, "components": document["components"]}).validate(value)


def operation_of(document: dict[str, Any], name: str) -> tuple[str, str, dict[str, Any]]:
    """Path, method and description."""
    ((path, method, operation),) = [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if operation["operationId"] == name
    ]
    return path, method, operation


def check_request(ask: Ask, operation: dict[str, Any], document: dict[str, Any]) -> None:
    """What is sent is told: its media type, its form where that is good, its headers but for HTTP's own."""
    if ask.body is not None:
        accepted = operation["requestBody"]["content"][ask.type]
        if not isinstance(ask.body, bytes) and ask.status == 200:
            check(accepted["schema"], document, ask.body)
    references = [each["$ref"].rpartition("/")[2] for each in operation.get("parameters", ())]
    told = {document["components"]["parameters"][name]["name"] for name in references}
    assert ask.headers.keys() <= told | {"Accept"}


def check_reply(reply: requests.Response, promised: dict[str, Any], document: dict[str, Any]) -> None:
    """What came is told: its media type, its form, its headers but for HTTP's own."""
    media_type = reply.headers["Content-Type"].partition(";")[0]
    assert media_type in promised["content"]
    if media_type == "application/json" and "schema" in promised["content"][media_type]:
        check(promised["content"][media_type]["schema"], document, reply.json())
    told = {name.lower(): each["schema"] for name, each in document["components"]["headers"].items()}
    for header, value in reply.headers.items():
        name = header.lower()
        if name.startswith("x-smartbatch-") or name in ("server-timing", "retry-after"):
            assert name in {each.lower() for each in promised["headers"]}
            check(told[name], document, int(value) if told[name]["type"] == "integer" else value)


def test_it_is_the_one_that_is_checked(told: dict[str, Any]) -> None:
    assert told == json.loads(openapi.text())
    operations = [each["operationId"] for path in told["paths"].values() for each in path.values()]
    assert sorted(operations) == sorted(ASKED), "each of them is asked below"


@pytest.mark.parametrize("name", ASKED)
def test_answers_are_what_it_says(models: ModelServer, told: dict[str, Any], name: str) -> None:
    path, method, operation = operation_of(told, name)
    for ask in ASKED[name]:
        check_request(ask, operation, told)
        body = ask.body if ask.body is None or isinstance(ask.body, bytes) else json.dumps(ask.body)
        headers = ask.headers if body is None else {"Content-Type": ask.type, **ask.headers}
        url = models.url + path.replace("{model}", ask.model).replace("{version}", VERSION)
        reply = requests.request(method, url, data=body, headers=headers, timeout=TIMEOUT_S)
        assert reply.status_code == ask.status, (ask, reply.text[:300])
        promised = operation["responses"][str(ask.status)]
        if "$ref" in promised:
            promised = told["components"]["responses"][promised["$ref"].rpartition("/")[2]]
        check_reply(reply, promised, told)


def test_classes_have_the_form_that_is_told(models: ModelServer, told: dict[str, Any]) -> None:
    answer = models.post("shades", data=png()).json()
    assert set(answer) == {"result"}
    check({"type": "array", "items": {"$ref": "#/components/schemas/Class"}}, told, answer["result"])
    assert {each["label"] for each in answer["result"]} == set(LABELS)
