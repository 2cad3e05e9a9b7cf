"""The page's files agree with what they stand for; how they work, tests/e2e/models/test_page.py tries in a browser."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from smartbatch_worker.contract import media_types
from smartbatch_worker.contract import metrics as names
from smartbatch_worker.contract.config import OUTPUTS

UI = Path(__file__).parents[2] / "frontend" / "ui"
SCRIPTS = sorted(UI.glob("*.js"))
MAX_BYTES = 60_000
"""Of all files; the description of the API is not the page's."""


class Elements(HTMLParser):
    """Every element's name and attributes, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def elements() -> list[tuple[str, dict[str, str | None]]]:
    parser = Elements()
    parser.feed((UI / "index.html").read_text(encoding="utf-8"))
    return parser.found


def literal(script: str, name: str) -> object:
    """A constant of a script, if it is plain enough to be JSON once its keys are quoted."""
    text = (UI / script).read_text(encoding="utf-8")
    found = re.search(rf"const {name} = ([\[{{].*?[\]}}]);", text, re.DOTALL)
    assert found is not None, name
    quoted = re.sub(r"(\w+):(?= )", r'"\1":', found[1])
    return json.loads(re.sub(r",\s*([\]}])", r"\1", quoted))


def test_it_sends_the_media_types_of_the_contract() -> None:
    expected = {suffix.removeprefix("."): kind for suffix, kind in media_types.BY_SUFFIX.items()}
    assert literal("page.js", "MEDIA_TYPES") == expected


def test_it_asks_for_metrics_that_there_are() -> None:
    known = {*names.COUNTERS, *names.GAUGES, *names.FRONTEND, f"{names.REQUEST_SECONDS}_bucket"}
    asked = literal("figures.js", "METRICS")
    assert isinstance(asked, list)
    assert set(asked) <= known
    text = (UI / "figures.js").read_text(encoding="utf-8").partition("];")[2]
    text += (UI / "page.js").read_text(encoding="utf-8")
    used = set(re.findall(r'"(smartbatch_\w+)"', text))
    averages = {name for name in used if f"{name}_sum" in asked}
    used = used - averages | {name + suffix for name in averages for suffix in ("_sum", "_count")}
    assert used == set(asked), "what is asked for is used, and the other way round"
    assert literal("figures.js", "STAGES") == list(names.STAGES)


def test_every_way_to_answer_can_be_chosen(elements: list[tuple[str, dict[str, str | None]]]) -> None:
    offered = [attributes["value"] for tag, attributes in elements if tag == "option"]
    assert offered == ["", *OUTPUTS[1:]]


def test_labels_and_scripts_name_what_there_is(elements: list[tuple[str, dict[str, str | None]]]) -> None:
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for _, attributes in elements:
        for reference in ("for", "aria-labelledby", "aria-describedby"):
            assert attributes.get(reference) in (None, *ids), attributes
    for script in SCRIPTS:
        text = script.read_text(encoding="utf-8")
        assert set(re.findall(r'(?:byId|say|showSplit)\("([\w-]+)"', text)) <= set(ids), script.name


def test_nothing_is_fetched_from_elsewhere_or_written_into_the_text(
    elements: list[tuple[str, dict[str, str | None]]],
) -> None:
    """Which the policy that it is served with would not let run."""
    files = {path.name for path in UI.iterdir()}
    for tag, attributes in elements:
        assert not {"style", *(name for name in attributes if name.startswith("on"))} & set(attributes), attributes
        for name in ("src", "href"):
            target = attributes.get(name)
            assert target is None or target in {*files, "../openapi.json"}, target
        assert tag not in ("style", "base", "iframe")
    for path in UI.iterdir():
        if path.suffix in (".js", ".css", ".html"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"https?://|innerHTML|\beval\(|insertAdjacentHTML|document\.write", text), path.name
    assert sum(path.stat().st_size for path in UI.iterdir() if path.name != "openapi.json") <= MAX_BYTES
