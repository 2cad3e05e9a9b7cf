"""Whether a server would answer for a model now: which questions are asked, without asking them."""

from __future__ import annotations

from collections.abc import Generator
from urllib.parse import quote

Question = Generator[str, tuple[int, bytes], bool]
"""Gives paths to GET, takes status and body of each, returns whether the model is ready."""


def is_ready(model: str) -> Question:
    """Ask for the model where SmartBatch's frontend is, for the server alone where it is TorchServe's own.

    TorchServe's `/ping` says "Healthy" while models still load: it is the best that such a server tells.
    """
    name, _, version = model.partition("/")
    of_version = f"/versions/{quote(version, safe='')}" if version else ""
    status, _ = yield f"/v2/models/{quote(name, safe='')}{of_version}/ready"
    if status != 404:
        return status == 200
    status, _ = yield "/readyz"
    if status != 404:
        return False  # our frontend, so it was the model that it does not know
    status, body = yield "/ping"
    return status == 200 and b'"Healthy"' in body
