"""Debian's Chromium without a screen, driven by the WebDriver that comes with it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
WAIT_S = 120
"""Generous: a machine may be busy."""
SIZE = (1280, 1150)

needs_chromium = pytest.mark.skipif(
    (CHROMIUM is None or DRIVER is None) and "CI" not in os.environ,
    reason="Debian's chromium and chromium-driver are not installed",
)


class Page:
    """The page of a server, in a browser."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        """Load the page anew, as in a new tab."""
        self.driver.get(url)

    def __getitem__(self, name: str) -> WebElement:
        """The element of that id."""
        return self.driver.find_element(By.ID, name)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a function's body of JavaScript returns; a promise is waited for."""
        return self.driver.execute_script(script, *arguments)

    def protocol(self, command: str, **parameters: Any) -> Any:
        """Chrome's own protocol, for what WebDriver has no word for."""
        return self.driver.execute_cdp_cmd(command, parameters)

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        """Until a condition holds."""
        WebDriverWait(self.driver, WAIT_S, 0.05).until(lambda _: condition(), what)

    def wait_text(self, name: str, part: str) -> str:
        """Until an element's text has that part; the whole text."""
        self.wait(lambda: part in self[name].text, f"#{name} never says {part!r}; it says {self[name].text!r}")
        return self[name].text

    def classes(self, name: str) -> set[str]:
        """An element's classes."""
        return set((self[name].get_attribute("class") or "").split())

    def choose(self, model: str) -> None:
        """One of the served models."""
        option = (By.CSS_SELECTOR, f"#model option[value='{model}']")
        self.wait(lambda: self.driver.find_elements(*option), f"{model} is never offered")
        self.driver.find_element(*option).click()

    def send(self) -> None:
        """Press the button."""
        self.wait(self["send"].is_enabled, "Send stays disabled")
        self["send"].click()

    def requested(self) -> list[str]:
        """The address of every request since this was last asked."""
        log = self.driver.get_log("performance")  # type: ignore[no-untyped-call]
        messages = [json.loads(entry["message"])["message"] for entry in log]
        sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
        return [parameters["request"]["url"] for parameters in sent]


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """A browser for the length of the block.

    Args:
        profile: folder for what it keeps; certificates that nobody signed are taken.
    """
    assert CHROMIUM is not None
    assert DRIVER is not None
    options = Options()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",  # which root cannot have
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--ignore-certificate-errors",
        f"--user-data-dir={profile}",
        f"--window-size={SIZE[0]},{SIZE[1]}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = Chrome(options, Service(DRIVER))
    try:
        yield Page(driver)
    finally:
        driver.quit()
