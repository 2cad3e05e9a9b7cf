"""The page at /ui/ in a real browser: what it sends, what it shows, who can use it."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys
from smartbatch.remote.scrape import parse, quantile

from tests.e2e.browser import Page, browser, needs_chromium
from tests.e2e.models.brought_along import EXAMPLE, LABELS
from tests.e2e.models.model_server import ModelServer

pytestmark = [pytest.mark.mended, needs_chromium]

NUM_REQUESTS = 24


def picture(colour: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (400, 300), colour).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A browser."""
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(autouse=True)
def opened(page: Page, models: ModelServer) -> None:
    """The page as it comes, of a classifier whose answers are known."""
    page.requested()
    page.open(f"{models.url}/ui/")
    page.wait_text("connection", "live")
    page.choose("shades")


def give(page: Page, event: str, name: str, content: bytes, media_type: str) -> None:
    """Drop or paste a file, or with no name a text, as the browser would tell the page of it."""
    page.run(
        """
        const [kind, name, content, type] = arguments;
        const transfer = new DataTransfer();
        if (name) {
          transfer.items.add(new File([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))], name, {type}));
        } else {
          transfer.setData(type, atob(content));
        }
        const told = {bubbles: true, cancelable: true};
        document.body.dispatchEvent(kind === "drop"
          ? new DragEvent("drop", {...told, dataTransfer: transfer})
          : new ClipboardEvent("paste", {...told, clipboardData: transfer}));
        """,
        *(event, name, base64.b64encode(content).decode(), media_type),
    )


def rows(page: Page) -> list[list[str]]:
    found: list[list[str]] = page.run(
        "return [...document.querySelectorAll('#result li')].map((row) => [...row.children].map((c) => c.textContent))"
    )
    return [row[:2] for row in found]


def legend(page: Page, name: str) -> dict[str, float]:
    texts: list[str] = page.run("return [...arguments[0].querySelectorAll('li')].map((e) => e.textContent)", page[name])
    return {text.split()[0]: float(text.split()[1]) for text in texts}


def test_serve_says_where_it_is(models: ModelServer) -> None:
    assert f"In a browser: {models.url}/ui/" in models.served.said.read_text()


def test_a_picture_is_chosen_and_answered(page: Page, tmp_path: Path) -> None:
    (tmp_path / "Sunset.PNG").write_bytes(picture("red"))
    places = {name: page[name].location for name in ("answer-title", "live-title", "send")}
    page["file"].send_keys(str(tmp_path / "Sunset.PNG"))
    page.wait_text("chosen", "Sunset.PNG, image/png,")
    page.wait(page["picture"].is_displayed, "no preview")
    assert page.run("return [arguments[0].width, arguments[0].height]", page["picture"]) == [320, 240]
    page.send()
    said = page.wait_text("summary", "Answered in")
    (best, share), *others = rows(page)
    assert said.endswith(f" ms: red ({share})")
    assert best == "red"
    assert {name for name, _ in others} == {"green", "<b>blue</b>"}, "a class's name is text, not HTML"
    assert (page["batch-size"].text, page["forward-size"].text) == ("1", "1")
    assert page["weights"].text
    assert "alarm" not in page.classes("weights")
    parts = legend(page, "split")
    assert list(parts) == ["queue", "decode", "stack", "forward", "rest"]
    total = float(re.search(r"in ([\d.]+) ms", said)[1])  # type: ignore[index]
    assert sum(parts.values()) >= 0.9 * total
    assert {name: page[name].location for name in places} == places, "an answer moves nothing"


@pytest.mark.parametrize(("event", "colour", "best"), [("drop", "blue", "<b>blue</b>"), ("paste", "lime", "green")])
def test_pictures_and_texts_are_dropped_and_pasted(page: Page, event: str, colour: str, best: str) -> None:
    give(page, event, "image.png", picture(colour), "image/png")
    page.wait_text("chosen", "image.png, image/png,")
    page.send()
    page.wait_text("summary", f" ms: {best} (")
    give(page, event, "", b'{"data": [[0.5, 0.5]]}', "text/plain")
    assert page["text"].get_attribute("value") == '{"data": [[0.5, 0.5]]}'
    assert page["chosen"].text == "", "what was given last is sent"
    page.send()
    page.wait(lambda: page["raw"].get_attribute("open"), "no numbers")
    assert page["summary"].text.startswith("Answered in")


def test_json_and_errors_by_the_keyboard_alone(page: Page, models: ModelServer) -> None:
    page.open(f"{models.url}/ui/")  # once more, with nothing focused yet
    page.wait_text("connection", "live")
    page.wait(lambda: page["send"].is_enabled() and page["model"].is_enabled(), "nothing to be used")
    focused: list[str] = []
    while not focused or focused[-1] != "send":
        ActionChains(page.driver).send_keys(Keys.TAB).perform()  # to whatever has the focus
        focused.append(page.run("return document.activeElement.id"))
        assert len(focused) < 20, focused
        outline = page.run("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", f"#{focused[-1]} does not show that it has the focus"
    page["model"].send_keys("su")
    assert page["model"].get_attribute("value") == "sum"
    assert [name for name in focused if name != "example"] == ["model", "file", "text", "output", "clear", "send"]
    page["text"].send_keys(json.dumps(EXAMPLE), Keys.CONTROL, Keys.ENTER)
    page.wait_text("summary", "Answered in")
    assert json.loads(page["raw"].find_element("tag name", "pre").text) == {"result": {"total": 12.0, "text": "12"}}
    page["text"].send_keys(Keys.CONTROL, "a", Keys.NULL, '{"inputs": {', Keys.CONTROL, Keys.ENTER)
    assert page.wait_text("summary", "400 malformed: ")
    assert "failed" in page.classes("summary")
    page["clear"].send_keys(Keys.SPACE)
    page.wait_text("summary", "Nothing has been sent yet.")
    page["send"].send_keys(Keys.ENTER)
    page.wait_text("summary", "There is nothing to send")


def test_the_example_is_one_that_the_model_takes(page: Page) -> None:
    page.wait(lambda: page["example"].is_enabled(), "no example")
    page["example"].click()
    page.send()
    page.wait_text("summary", "Answered in")
    assert len(json.loads(page["raw"].find_element("tag name", "pre").text)["result"]) == len(LABELS)
    page["output"].send_keys("topk")
    page.send()
    page.wait(lambda: rows(page), "no classes")


def test_words_to_a_model_of_pictures(page: Page) -> None:
    page["text"].send_keys("only words")
    page.send()
    assert "415 unknown_format: " in page.wait_text("summary", "415")


def test_the_server_live(page: Page, models: ModelServer) -> None:
    def figure(name: str) -> str:
        return str(page.run("return document.querySelector(`[data-figure=${arguments[0]}]`).textContent", name))

    models.at_once("shades", [{"data": picture("red")}] * NUM_REQUESTS)
    models.post("shades", data=b"nothing")
    page.wait(lambda: figure("rate") not in ("–", "0.0"), "no rate")
    page.wait(lambda: figure("batch") != "–", "no batch")
    page.wait(lambda: figure("failures") not in ("–", "0.0"), "no failures")
    assert figure("queue").startswith("0 of ")
    assert figure("workers") == "1 of 1"
    assert float(figure("batch")) > 1
    assert float(figure("forward")) > 1
    assert figure("p50").endswith(("ms", "s"))
    assert figure("p95").endswith(("ms", "s"))
    assert set(legend(page, "stages")) == {"decode", "stack", "forward", "encode"}
    assert sum(legend(page, "stages").values()) > 0
    assert not page["random"].is_displayed()
    page.choose("masks")
    page.wait(page["random"].is_displayed, "random weights are not said to be")
    red, green, blue = colour_of(page, "random", "color")
    assert red > 150 > max(green, blue)


def test_its_quantiles_are_those_of_the_command(page: Page, models: ModelServer) -> None:
    models.at_once("shades", [{"data": picture("red")}] * NUM_REQUESTS)
    text = requests.get(f"{models.url}/ui/metrics?name[]=smartbatch_request_seconds_bucket", timeout=60).text
    found = page.run(
        """
        return import("/ui/figures.js").then(({figuresOf, parse}) => {
          const {p50, p95} = figuresOf("shades", {at: 0, samples: []}, {at: 1, samples: parse(arguments[0])});
          return [p50, p95];
        });
        """,
        text,
    )
    assert found == pytest.approx([quantile(parse(text), q, "shades") for q in (0.5, 0.95)])


def colour_of(page: Page, name: str, what: str) -> tuple[int, int, int]:
    # Through a canvas: a computed colour may be spelled in several ways.
    found: Any = page.run(
        """
        const pen = document.createElement("canvas").getContext("2d");
        pen.fillStyle = getComputedStyle(arguments[0])[arguments[1]];
        pen.fillRect(0, 0, 1, 1);
        return [...pen.getImageData(0, 0, 1, 1).data.slice(0, 3)];
        """,
        *(page[name], what),
    )
    return tuple(found)


def luminance(colour: tuple[int, int, int]) -> float:
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(page: Page, name: str, card: str) -> float:
    """As WCAG 2 has it; 4.5 is what text of any size needs."""
    lights = sorted((luminance(colour_of(page, name, "color")), luminance(colour_of(page, card, "backgroundColor"))))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_dark_and_on_a_phone(page: Page, scheme: str, tmp_path: Path) -> None:
    page.protocol("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    give(page, "drop", "a.png", picture("orange"), "image/png")
    page.send()
    page.wait_text("summary", "Answered in")
    try:
        is_dark = luminance(colour_of(page, "answer", "backgroundColor")) < 0.2
        assert is_dark == (scheme == "dark")
        for name in ("answer-title", "summary", "text-hint", "chosen"):
            assert contrast(page, name, "answer") >= 4.5, name
        assert contrast(page, "send", "send") >= 4.5
        assert contrast(page, "random", "answer") >= 4.5
        saved = tmp_path / f"{scheme}.png"
        assert page.driver.save_screenshot(str(saved))
        with Image.open(saved) as shot:
            assert len(shot.convert("RGB").getcolors(2**24) or ()) > 50
        page.protocol("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2, mobile=True)
        assert page.run("return document.documentElement.scrollWidth") <= 360, "it is to be scrolled one way only"
        assert page["live"].location["y"] > page["answer"].location["y"]
    finally:
        page.protocol("Emulation.clearDeviceMetricsOverride")
        page.protocol("Emulation.setEmulatedMedia", features=[])


def test_a_screen_reader_finds_a_name_for_everything_that_is_used(page: Page) -> None:
    nodes = page.protocol("Accessibility.getFullAXTree")["nodes"]
    told = [node for node in nodes if not node["ignored"]]
    used = {"button", "combobox", "textbox", "link", "DisclosureTriangle", "img"}
    nameless = [n["role"]["value"] for n in told if n["role"]["value"] in used and not n["name"]["value"].strip()]
    assert not nameless
    names = {node["name"]["value"] for node in told if "name" in node}
    wanted = {"Model", "A file: picture, tensors, sound", "Or text, or JSON", "Answer with", "Send"}
    assert wanted <= names, names
    regions = {node["name"]["value"] for node in told if node["role"]["value"] == "region"}
    assert regions == {"Ask the model", "Answer", "The server, live"}
    headings = [node["name"]["value"] for node in told if node["role"]["value"] == "heading"]
    assert headings[0].startswith("SmartBatch")
    assert page["summary"].get_attribute("role") == "status", "it is read out when an answer comes"


def test_it_asks_this_server_alone_and_runs_nothing_else(page: Page, models: ModelServer) -> None:
    page.run(
        """
        document.body.append(
          Object.assign(document.createElement("script"), {textContent: "window.ran = true"}),
          Object.assign(new Image(), {src: "https://elsewhere.example/x.png"}),
        );
        """
    )
    assert page.run("return window.ran") is None, "the policy lets no script within the page run"
    asked = page.requested()
    assert {url.removeprefix(models.url).partition("?")[0] for url in asked if url.startswith(models.url)} >= {
        "/ui/",
        "/ui/page.js",
        "/ui/page.css",
        "/ui/metrics",
        "/v2",
    }
    foreign = {url for url in asked if not url.startswith((models.url, "data:"))}
    assert foreign <= {"https://elsewhere.example/x.png"}, "asked for above, and kept back by the policy"


def test_files_as_any_client_gets_them(models: ModelServer) -> None:
    page = requests.get(f"{models.url}/ui", timeout=60)
    assert page.url == f"{models.url}/ui/"
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert page.headers["Content-Security-Policy"].startswith("default-src 'self';")
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    again = requests.get(page.url, headers={"If-None-Match": page.headers["ETag"]}, timeout=60)
    assert (again.status_code, again.content) == (304, b"")
    assert requests.head(page.url, timeout=60).headers["Content-Length"] == str(len(page.content))
    assert "Access-Control-Allow-Origin" not in page.headers
    for path in ("/ui/index.html", "/ui/..%2fsmartbatch-frontend.jar", "/ui/openapi.json", "/smartbatch-frontend.jar"):
        assert requests.get(models.url + path, timeout=60).status_code == 404, path
    assert requests.post(page.url, data=b"x", timeout=60).status_code == 404
    for url in (models.served.state.management_url, models.served.state.metrics_url.removesuffix("/metrics")):
        assert requests.get(f"{url}/ui/", timeout=60).status_code == 404
