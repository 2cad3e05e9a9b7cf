"""Write frontend/ui/openapi.json, which a server answers at /openapi.json: what its inference port takes and gives.

    python -m tools.openapi

Media types, datatypes, headers, outputs and the handler's errors are read from the code that they belong to; what only
Java knows stands here, and tests/unit/test_openapi.py compares it with the sources. tests/e2e/models/test_openapi.py
asks a real server each operation, and checks each answer.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from smartbatch_worker import errors
from smartbatch_worker.contract import headers, media_types
from smartbatch_worker.contract.config import OUTPUTS
from smartbatch_worker.contract.open_inference import DATATYPES, TEXTS
from smartbatch_worker.formats import FORMATS
from smartbatch_worker.torchserve import accept

from frontend.build import version

PLACE = Path(__file__).resolve().parents[1] / "frontend" / "ui" / "openapi.json"
Schema = dict[str, Any]

FRONTEND_ERRORS: Mapping[int, tuple[str, ...]] = {
    400: ("malformed", "token_refused"),
    404: ("not_found", "unknown_model"),
    408: ("too_slow",),
    413: ("too_large",),
    415: ("unknown_format",),
    500: ("internal", "worker_died"),
    503: ("draining", "no_worker", "overloaded", "unavailable"),
    504: ("deadline_passed",),
    507: ("out_of_memory", "worker_out_of_memory"),
}
"""By status, the codes of errors that the frontend answers a prediction with by itself."""


def handler_errors() -> dict[int, set[str]]:
    """By status, the codes of the handler's errors."""
    found: dict[int, set[str]] = {}
    for _, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, errors.RowError):
            found.setdefault(kind.status, set()).add(kind.code)
    return found


def body_types() -> list[str]:
    """What the body of a prediction may be, the formats in their table's order, then what is no format."""
    found: list[str] = []
    for row in FORMATS:
        own = getattr(media_types, row.name.upper().replace("-", "_"))
        found += [own, *(kind for kind in row.media_types if kind != own)]
    return [*found, media_types.TEXT, "multipart/form-data", media_types.ANY]


def ref(name: str, kind: str = "schemas") -> Schema:
    """A reference to what stands under `components`."""
    return {"$ref": f"#/components/{kind}/{name}"}


def record(required: Iterable[str] = (), **properties: Schema) -> Schema:
    """An object; all properties that are named as such must be there."""
    return {"type": "object", "required": list(required), "properties": properties}


def listed(items: Schema) -> Schema:
    """A list."""
    return {"type": "array", "items": items}


TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
FLAG: Schema = {"type": "boolean"}
SHAPE = listed(WHOLE)
MEASURES = listed({"type": "number"})


def schemas() -> dict[str, Schema]:
    """The forms of all bodies that are JSON."""
    tensor = {"name": TEXT, "shape": SHAPE, "datatype": ref("Datatype"), "parameters": {"type": "object"}}
    data = {"data": listed({})}
    told = listed(record(("name", "datatype", "shape"), name=TEXT, datatype=ref("Datatype"), shape=SHAPE))
    a_class = record(("label", "index", "score"), label=TEXT, index=WHOLE, score={"type": "number"})
    box = {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}
    version_state = record(("version", "ready", "min_workers"), version=TEXT, ready=FLAG, min_workers=WHOLE)
    return {
        "Prediction": {
            "description": "One item or N: as `data`, as the model's named `inputs`, in KServe's v1 or as `text`.",
            "type": "object",
            "anyOf": [{"required": [key]} for key in ("data", "inputs", "instances", "text", "body")],
            "properties": {
                "data": {"description": "Nested lists of numbers; of a model of pictures also a file in base64."},
                "inputs": {"description": "Tensors by name, or a list of such objects.", "type": ["object", "array"]},
                "instances": {"description": "One entry an item.", "type": "array"},
                "text": {"description": "For a model with a tokenizer.", "type": ["string", "array"]},
                "text_pair": {"description": "What each text is compared with.", "type": ["string", "array"]},
                "body": {"description": "A picture's file in base64.", "type": "string"},
            },
        },
        "Class": a_class,
        "Box": record(("label", "score", "box"), label=TEXT, score={"type": "number"}, box=box),
        "Answer": {
            "description": "`result` of one item, or a list of N of them; `predictions` where `instances` were sent. A "
            "model with `envelope: bare` gives what stands there alone.",
            "anyOf": [
                record(
                    ["result"],
                    result={
                        "anyOf": [
                            listed(ref("Class")),
                            listed(ref("Box")),
                            ref("Class"),
                            {"description": "The model's numbers, its parts by name, or text."},
                        ]
                    },
                ),
                record(["predictions"], predictions={"type": "array"}),
                {"description": "Without an envelope."},
            ],
        },
        "Error": record(
            ["error"], error=record(("code", "message"), code={"description": "For programs.", **TEXT}, message=TEXT)
        ),
        "InferError": record(["error"], error=TEXT),
        "Datatype": {"enum": [*DATATYPES.values(), TEXTS]},
        "InferRequest": record(
            ["inputs"],
            id=TEXT,
            parameters={"type": "object"},
            inputs={**listed(record(("name", "shape", "datatype"), **tensor, **data)), "minItems": 1},
            outputs=listed(record(["name"], name=TEXT, parameters={"type": "object"})),
        ),
        "InferAnswer": record(
            ("model_name", "outputs"),
            id=TEXT,
            model_name=TEXT,
            model_version=TEXT,
            outputs=listed(record(("name", "shape", "datatype"), **tensor, **data)),
        ),
        "Server": record(("name", "version", "extensions"), name=TEXT, version=TEXT, extensions=listed(TEXT)),
        "Model": record(
            ("name", "versions", "platform", "inputs", "outputs"),
            name=TEXT,
            versions=listed(TEXT),
            platform=TEXT,
            inputs=told,
            outputs=told,
        ),
        "Live": record(["live"], live=FLAG),
        "Ready": record(
            ("ready", "models"),
            ready=FLAG,
            message={"description": "Why it is not.", **TEXT},
            models={"type": "object", "additionalProperties": version_state},
        ),
        "ModelReady": record(("name", "ready"), name=TEXT, ready=FLAG, message=TEXT),
        "Ping": record(["status"], status=TEXT),
    }


def parameters() -> dict[str, Schema]:
    """What stands in addresses and headers of requests."""

    def header(name: str, description: str, **schema: Any) -> Schema:
        return {"name": name, "in": "header", "description": description, "schema": schema}

    def in_path(name: str) -> Schema:
        return {"name": name, "in": "path", "required": True, "schema": TEXT}

    return {
        "model": in_path("model"),
        "version": in_path("version"),
        "Output": header(headers.OUTPUT, "What of the model's answer is wanted.", enum=list(OUTPUTS)),
        "Deadline": header(
            headers.DEADLINE_MS, "Milliseconds from the start; later it is 504.", type="number", minimum=0
        ),
        "Start": header(headers.START, "When it was sent, unix seconds; `t=` may stand before.", type="string"),
        "Timing": header(headers.TIMING, f"Asks for {headers.SERVER_TIMING}.", enum=["on"]),
        "JsonLength": header(headers.JSON_LENGTH, "Bytes of JSON before binary tensors.", type="integer", minimum=0),
    }


def answer_headers() -> dict[str, Schema]:
    """Of what a worker answered, errors too."""
    numbers: dict[str, Any] = {"type": "integer", "minimum": 0}
    return {
        headers.BATCH_SIZE: {"description": "Requests in its batch.", "schema": numbers},
        headers.FORWARD_SIZE: {"description": "Items in its forward; 0 where none ran.", "schema": numbers},
        headers.WEIGHTS: {"description": "Where the weights are from.", "schema": TEXT},
        headers.TRUNCATED: {"description": "How many of its texts were cut.", "schema": numbers},
        headers.SERVER_TIMING: {"description": "Milliseconds in the queue and in each stage.", "schema": TEXT},
        "Retry-After": {"description": "Seconds, of 503.", "schema": numbers},
    }


def reply(description: str, schema: str | None = None, media_type: str = media_types.JSON) -> Schema:
    """An answer with a body of that form."""
    return {"description": description, "content": {media_type: {"schema": ref(schema)} if schema else {}}}


def failures(schema: str) -> dict[str, Schema]:
    """Every error of a prediction, by status: references to `error_replies`."""
    return {name[-3:]: ref(name, "responses") for name in error_replies(schema)}


def error_replies(schema: str) -> dict[str, Schema]:
    """Every error of a prediction, by its form and status, as Error400."""
    found: dict[str, Schema] = {}
    of_handler = handler_errors()
    for status in sorted({*FRONTEND_ERRORS, *of_handler}):
        codes = sorted({*FRONTEND_ERRORS.get(status, ()), *of_handler.get(status, ())})
        found[f"{schema}{status}"] = {
            **reply(f"{HTTPStatus(status).phrase}: {', '.join(codes)}", schema),
            "headers": {name: ref(name, "headers") for name in answer_headers()},
        }
        if schema == "Error":
            of_code = {"properties": {"error": {"properties": {"code": {"enum": codes}}}}}
            found[f"{schema}{status}"]["content"] = {media_types.JSON: {"schema": {"allOf": [ref("Error"), of_code]}}}
    return found


def yes_or_no(schema: str, error: str) -> dict[str, Schema]:
    """Answers to a question of health: the same form with 200 and 503, and an error where the server stops."""
    no = reply("No, or the server stops.")
    no["content"] = {media_types.JSON: {"schema": {"anyOf": [ref(schema), ref(error)]}}}
    return {"200": reply("Yes.", schema), "503": no}


def post(summary: str, name: str, where: Iterable[str], body: Schema, success: Schema, error: str) -> Schema:
    """An operation that asks a model."""
    success = {**success, "headers": {name: ref(name, "headers") for name in answer_headers()}}
    return {
        "post": {
            "operationId": name,
            "summary": summary,
            "parameters": [ref(each, "parameters") for each in (*where, "Deadline", "Start", "Timing")],
            "requestBody": {"required": True, "content": body},
            "responses": {"200": success, **failures(error)},
        }
    }


def get(summary: str, name: str, replies: Mapping[str, Schema], *where: str, is_open: bool = True) -> Schema:
    """An operation that asks the server; an open one asks for no token."""
    found: Schema = {"operationId": name, "summary": summary, "responses": dict(replies)}
    if where:
        found["parameters"] = [ref(each, "parameters") for each in where]
    return {"get": {**found, "security": []} if is_open else found}


def paths() -> dict[str, Schema]:
    """Every operation of the inference port that SmartBatch answers for."""
    bodies: Schema = {kind: {} for kind in body_types()}
    bodies[media_types.JSON] = {"schema": ref("Prediction")}
    answers: Schema = {kind: {} for kind in accept.ANSWERS}
    answers[media_types.JSON] = {"schema": ref("Answer")}
    predicted = {"description": "The model's answer, in the form that `Accept` asks for.", "content": answers}
    infers: Schema = {media_types.JSON: {"schema": ref("InferRequest")}, media_types.ANY: {}}
    inferred = reply("Tensors", "InferAnswer")
    inferred["content"][media_types.ANY] = {}
    v1 = {media_types.JSON: {"schema": {"allOf": [ref("Prediction"), {"required": ["instances"]}]}}}
    draining = reply("The server stops.", "Error")
    unknown = {"404": reply("No such model.", "InferError")}
    model = {"200": reply("Its inputs and outputs.", "Model"), **unknown, "503": reply("It stops.", "InferError")}
    refused = {"400": reply("The token is missing or wrong.", "Error"), "503": draining}
    page = reply("A page to try the server with; off with SMARTBATCH_UI=off.", media_type="text/html")
    figures = reply("The metrics port's, where the page is on; `name[]` asks for some.", media_type="text/plain")
    return {
        "/predictions/{model}": post("Ask a model", "predict", ("model", "Output"), bodies, predicted, "Error"),
        "/predictions/{model}/{version}": post(
            "Ask a version of it", "predictVersion", ("model", "version", "Output"), bodies, predicted, "Error"
        ),
        "/v1/models/{model}:predict": post("KServe's v1", "predictV1", ("model", "Output"), v1, predicted, "Error"),
        "/v2/models/{model}/infer": post(
            "Open Inference Protocol", "infer", ("model", "Output", "JsonLength"), infers, inferred, "InferError"
        ),
        "/v2/models/{model}/versions/{version}/infer": post(
            "To a version", "inferVersion", ("model", "version", "Output", "JsonLength"), infers, inferred, "InferError"
        ),
        "/v2": get("What serves", "server", {"200": reply("Name, version, extensions.", "Server"), "503": draining}),
        "/v2/models/{model}": get("What a model takes", "model", model, "model"),
        "/v2/models/{model}/versions/{version}": get("Of a version", "version", model, "model", "version"),
        "/v2/models/{model}/ready": get(
            "Whether a model serves", "modelReady", yes_or_no("ModelReady", "InferError") | unknown, "model"
        ),
        "/v2/models/{model}/versions/{version}/ready": get(
            "Whether a version does",
            "versionReady",
            yes_or_no("ModelReady", "InferError") | unknown,
            *("model", "version"),
        ),
        "/v2/health/live": get("As /livez", "v2Live", yes_or_no("Live", "InferError")),
        "/v2/health/ready": get("As /readyz", "v2Ready", yes_or_no("Ready", "InferError")),
        "/livez": get("Whether it lives", "live", yes_or_no("Live", "Error")),
        "/readyz": get("Whether every model serves", "ready", yes_or_no("Ready", "Error")),
        "/ping": get(
            "TorchServe's own health",
            "ping",
            {"200": reply("Workers are there.", "Ping"), "500": reply("None is.", "Ping"), **refused},
            is_open=False,
        ),
        "/ui/": get("The page", "page", {"200": page, "404": reply("It is off.", "Error"), "503": draining}),
        "/ui/metrics": get("Its figures", "figures", {"200": figures, **refused}, is_open=False),
        "/openapi.json": get("This", "description", {"200": reply("OpenAPI 3.1."), "503": draining}),
    }


def document() -> Schema:
    """The whole description."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "SmartBatch",
            "version": version(),
            "description": "The inference port of a SmartBatch server. What bodies and answers hold in detail: "
            "docs/formats.md. A model's own handler may take and give other things.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"token": []}],
        "paths": paths(),
        "components": {
            "schemas": schemas(),
            "parameters": parameters(),
            "headers": answer_headers(),
            "responses": error_replies("Error") | error_replies("InferError"),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Asked for where the server was started with --token-auth.",
                }
            },
        },
    }


def text() -> str:
    """The file."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PLACE.write_text(text(), encoding="utf-8")
