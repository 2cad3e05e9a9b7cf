"""Locust users, one for each body format.

Web UI:    locust -f loadtest/locustfile.py --host http://127.0.0.1:8080 JpegUser
Headless:  the same with --headless -u 50 -r 10 -t 30s

Name one or more user classes, or add `--class-picker` and choose in the browser; none means all, mixed.
`smartbatch stress` runs this file with its settings in the environment (see `smartbatch_load.load.config`).
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import new_class
from typing import Any, ClassVar

import gevent
import smartbatch_load.load.images  # noqa: F401  numpy and PIL take a while: before the run's clock does
from locust import FastHttpUser, constant, events, task
from smartbatch_load.account import recorder
from smartbatch_load.load import answers, solo
from smartbatch_load.load.config import LoadConfig, authorization, user_class_name
from smartbatch_load.load.payloads import FILE, FORMATS, Payload

BACK_OFF_S = 0.5
"""Pause of a user whose connection failed, so that a dead server is not hammered."""


class Settings:
    """The run's config, filled in before any user starts."""

    config: ClassVar[LoadConfig] = LoadConfig.from_env()
    payloads: ClassVar[dict[str, list[Payload]]] = {}
    expected: ClassVar[dict[str, answers.Expected]] = {}


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_options(parser: Any) -> None:
    """The options that differ from Locust's own, for people who start Locust themselves."""
    config = Settings.config
    group = parser.add_argument_group("SmartBatch")
    group.add_argument("--model", default=config.model, help="name the model is registered under")
    group.add_argument(
        "--images", default=str(config.payload.images or ""), help="folder of pictures; empty: made ones"
    )
    group.add_argument("--num-images", type=int, default=config.payload.num_images, help="different pictures sent")
    group.add_argument("--image-seed", type=int, default=config.payload.seed, help="seed of the made pictures")


@events.init.add_listener  # type: ignore[untyped-decorator]
def start_recording(environment: Any, **_: Any) -> None:
    """Take the options and begin the log of requests."""
    options = environment.parsed_options
    if options is not None:
        payload = replace(
            Settings.config.payload,
            images=Path(options.images) if options.images else None,
            num_images=options.num_images,
            seed=options.image_seed,
        )
        Settings.config = replace(Settings.config, model=options.model, payload=payload)
    if Settings.config.record_dir:
        recorder.record(environment, Settings.config.record_dir)


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def prepare(environment: Any, **_: Any) -> None:
    """Make the bodies of the users that will run and learn their right answers."""
    runner = environment.runner
    if type(runner).__name__ == "MasterRunner":
        return  # sends nothing itself
    config = Settings.config
    sources = {user_class.source for user_class in environment.user_classes}
    Settings.payloads = {source: config.payload.read(source) for source in sorted(sources)}
    if config.answers_file:
        with open(config.answers_file, "rb") as file:  # noqa: PTH123  gevent patches the builtin
            Settings.expected = answers.from_json(file.read())
        return
    every = [payload for group in Settings.payloads.values() for payload in group]
    try:
        Settings.expected = solo.fetch(environment.host, config.model, every, timeout_s=config.timeout_s)
    except solo.SoloError as error:
        logging.error("no load is sent: %s", error)
        environment.process_exit_code = 1
        gevent.spawn_later(0.1, runner.stop if environment.web_ui else runner.quit)


class PredictUser(FastHttpUser):
    """Sends one prediction after the other, and looks at what comes back."""

    abstract = True
    source: ClassVar[str]
    wait_time = constant(0)
    network_timeout = Settings.config.timeout_s
    connection_timeout = 10.0
    num_started: ClassVar[int] = 0

    def on_start(self) -> None:
        """Begin at a picture of one's own, so that a batch holds different ones."""
        type(self).num_started += 1
        self.turn = self.num_started
        self.auth = authorization()

    @task
    def predict(self) -> None:
        """POST the next body and hold the answer against the one it gets alone."""
        payloads = Settings.payloads[self.source]
        payload = payloads[self.turn % len(payloads)]
        self.turn += 1
        with self.client.post(
            f"/predictions/{Settings.config.model}",
            data=payload.body,  # type: ignore[arg-type]  # annotated str, takes bytes
            headers={"Content-Type": payload.content_type, **self.auth},
            name=self.source,
            catch_response=True,
        ) as response:
            if response.status_code == 0:
                response.failure(f"no answer: {type(response.error).__name__}")
            elif response.status_code != 200:
                response.failure(f"HTTP {response.status_code}: {(response.text or '')[:200]}")
            elif wrong := answers.mismatch(Settings.expected[payload.name], response.content):
                response.failure(f"wrong answer: {wrong}")
        if response.status_code == 0:
            gevent.sleep(BACK_OFF_S)


def _add_user(source: str) -> None:
    """A user class of this module, by the name that Locust is told."""
    name = user_class_name(source)
    globals()[name] = new_class(name, (PredictUser,), exec_body=lambda body: body.update(source=source))


for _source in (*FORMATS, *((FILE,) if Settings.config.payload.bodies else ())):
    _add_user(_source)
