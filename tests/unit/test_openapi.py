"""/openapi.json is OpenAPI, is what tools/openapi.py writes, and what that knows by itself is what Java has."""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from pathlib import Path

from openapi_spec_validator import validate
from smartbatch_worker.formats import FORMATS

from tools import openapi

ROOT = Path(__file__).parents[2]
JAVA = ROOT / "frontend" / "src" / "smartbatch" / "frontend"
NOT_OF_PREDICTIONS = {(403, "forbidden"), (405, "method_not_allowed"), (409, "conflict")}
"""What TorchServe refuses management and other methods with."""


def test_the_committed_file_is_what_the_code_gives() -> None:
    assert openapi.PLACE.read_text(encoding="utf-8") == openapi.text(), "run `python -m tools.openapi`"


def test_it_is_openapi() -> None:
    validate(json.loads(openapi.text()))


def test_the_frontends_errors_are_those_of_its_sources() -> None:
    sources = {path.name: path.read_text(encoding="utf-8") for path in JAVA.rglob("*.java")}
    written = {
        (HTTPStatus[name].value, code)
        for text in sources.values()
        for name, code in re.findall(r'HttpResponseStatus\.([A-Z_]+),\s*"([a-z_]+)"', text)
    }
    fallbacks = {(int(s), code) for s, code in re.findall(r'case (\d+) -> "([a-z_]+)"', sources["Refusals.java"])}
    assert fallbacks > NOT_OF_PREDICTIONS
    known = {(status, code) for status, codes in openapi.FRONTEND_ERRORS.items() for code in codes}
    assert (written | fallbacks) - NOT_OF_PREDICTIONS <= known
    counted = re.search(r"REASONS =\s*Set\.of\((.*?)\);", sources["Ledger.java"], re.DOTALL)
    assert counted is not None
    codes = {code for _, code in known}
    assert set(re.findall(r'"(\w+)"', counted[1])) <= codes
    text = "".join(sources.values())
    assert {code for code in codes if f'"{code}"' not in text} == set(), "no source gives them"


def test_the_handlers_errors_are_those_of_the_documents() -> None:
    page = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8").partition("\n## Errors\n")[2]
    told = {
        (int(status), code)
        for status, codes in re.findall(r"^\| (\d{3}) \| (.*?) \|", page, re.MULTILINE)
        for code in re.findall(r"`(\w+)`", codes)
    }
    found = {(status, code) for status, codes in openapi.handler_errors().items() for code in codes}
    assert found <= told
    assert told - found <= {(503, "draining"), (503, "no_worker")}, "the frontend's"


def test_every_format_is_a_body() -> None:
    bodies = openapi.document()["paths"]["/predictions/{model}"]["post"]["requestBody"]["content"]
    for row in FORMATS:
        assert set(row.media_types) <= set(bodies), row.name
    assert len(set(bodies)) == len(openapi.body_types())
