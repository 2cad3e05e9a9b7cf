"""The right answers: each payload sent once, alone, before the load starts."""

from __future__ import annotations

from collections.abc import Sequence

import requests
from smartbatch.errors import SmartBatchError
from smartbatch_load.load.answers import Expected, parse
from smartbatch_load.load.config import authorization
from smartbatch_load.load.payloads import Payload


class SoloError(SmartBatchError):
    """A payload is not answered even when it is alone: a load test would measure only failures."""


def fetch(host: str, model: str, payloads: Sequence[Payload], *, timeout_s: float) -> dict[str, Expected]:
    """Send every payload once.

    Returns:
        The answers by payload name.

    Raises:
        SoloError: no connection, a status other than 200, or an answer that cannot be checked.
    """
    answers: dict[str, Expected] = {}
    url = f"{host.rstrip('/')}/predictions/{model}"
    with requests.Session() as session:
        session.trust_env = False  # a proxy in the environment is not what is being tested
        session.headers.update(authorization())
        for payload in payloads:
            try:
                response = session.post(
                    url, data=payload.body, headers={"Content-Type": payload.content_type}, timeout=timeout_s
                )
            except requests.RequestException as error:
                raise SoloError(f"{url} does not answer: {error}") from error
            if response.status_code != 200:
                raise SoloError(f"{url} answers {payload.name} with {response.status_code}: {response.text[:300]}")
            try:
                answers[payload.name] = parse(response.content)
            except ValueError as error:
                raise SoloError(f"{url}: {payload.name}: {error}") from error
    return answers
