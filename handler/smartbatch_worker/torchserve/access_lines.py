"""One line of TorchServe's access log: which model a request reached, and how long it took.

What is read is TorchServe's message, `/127.0.0.1:51234 "POST /predictions/resnet18 HTTP/1.1" 200 45`; whatever a layout
puts before it, a time among it, is not looked at. The routes are those of TorchServe 0.12's InferenceRequestHandler:

    /predictions/M[/VERSION[/…]] · /models/M/invoke · /v1/models/M:predict · /v2/models/M/infer
    /M[/VERSION]/predict · /invocations[?model_name=M]
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qs, unquote

# Only answers in the 2xx: an unknown model's 404 must not make a new series, and refusals are not latencies.
# OPTIONS is answered by the frontend itself, with a description.
_MESSAGE = re.compile(rb'"(?!OPTIONS )[A-Z]+ (/\S*) HTTP/[\d.]+" 2\d\d (\d+)\s*$')

# First parts of paths that have rules of their own, or are the management API's: no model's for /M/predict.
_NOT_A_MODEL = frozenset(
    {"", "ping", "predictions", "explanations", "api-description", "invocations", "models", "workflows", "v1", "v2"}
)

# TorchServe takes a metric's line apart at these; a model named with one cannot be a label.
_NOT_IN_A_LABEL = re.compile(r"[,:|\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Answered:
    """One request that a model answered."""

    model: str | None
    """None where the path leaves it to TorchServe: /invocations without a `model_name`."""
    seconds: float


def read_line(line: bytes) -> Answered | None:
    """The prediction that `line` tells of; None for any other line, and for names that a metric cannot carry."""
    match = _MESSAGE.search(line)
    if match is None:
        return None
    found = _model_of(match[1])
    if found is None or _NOT_IN_A_LABEL.search(found):
        return None
    # Whole milliseconds, cut off at both ends: the error has no bias, and 0 stands for about half of one.
    return Answered(found or None, max(float(match[2]), 0.5) / 1000)


@lru_cache(maxsize=1024)  # a server sees few paths, many times
def _model_of(uri: bytes) -> str | None:
    """The model's name, "" where the path does not say it, None where it is no prediction's path."""
    path, _, query = uri.decode(errors="replace").partition("#")[0].partition("?")
    # As Netty and TorchServe do: decoded first and cut at the slashes then, with empty parts at the end dropped.
    parts = unquote(path, errors="replace").rstrip("/").split("/")[1:]
    match parts:
        case ["predictions", model, *_] if model:
            return model
        case ["v1", "models", named] if ":predict" in named[1:]:
            return named.partition(":")[0]
        case ["v2", "models", model, "infer"]:
            return model.partition(":")[0] or None
        case ["models", model, "invoke"]:
            return model
        case ["invocations"]:
            return parse_qs(query.replace(";", "&")).get("model_name", [""])[0]
        case [model, "predict"] | [model, _, "predict"] if model not in _NOT_A_MODEL:
            return model
    return None
