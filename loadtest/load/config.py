"""What the load generator's processes are told, and how it reaches them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from smartbatch_worker.contract import environment

from loadtest.load.payloads import FORMATS, Payload, file_payloads, picture_payloads
from loadtest.load.shapes import Step

ENV_CONFIG = "SMARTBATCH_LOAD"
"""JSON of a `LoadConfig`."""
ENV_TOKEN = environment.TOKEN
"""Bearer token of the inference API; kept out of the config so that no report shows it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadConfig:
    """One closed-loop run."""

    model: str = "resnet18"
    formats: tuple[str, ...] = ("jpeg",)
    images: str | None = None
    """Folder of pictures; None makes seeded ones."""
    bodies: tuple[str, ...] = ()
    """Files sent as they are instead of pictures."""
    num_images: int = 8
    seed: int = 0
    steps: tuple[Step, ...] = ()
    record_dir: str | None = None
    """Where each process writes its log of requests; None keeps none."""
    answers_file: str | None = None
    """Expected answers; None fetches them when the test starts."""
    timeout_s: float = 120.0

    def to_env(self) -> dict[str, str]:
        """Environment that `from_env` reads this config back from."""
        return {ENV_CONFIG: msgspec.json.encode(self).decode()}

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> LoadConfig:
        """The config in the environment, or the defaults."""
        text = env.get(ENV_CONFIG)
        if text is None:
            return cls()
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.MsgspecError as error:
            raise ValueError(f"{ENV_CONFIG} must be the JSON of a load config: {error}") from error

    def payloads(self, format_name: str) -> list[Payload]:
        """The bodies of one format, or the files where the run sends files (`format_name` "file")."""
        if format_name == "file":
            return file_payloads([Path(p) for p in self.bodies])
        images = Path(self.images) if self.images else None
        return picture_payloads(format_name, images=images, count=self.num_images, seed=self.seed)

    def sources(self) -> Sequence[str]:
        """What the run sends: its formats, or "file"."""
        return ("file",) if self.bodies else self.formats


def user_class_name(source: str) -> str:
    """Locust user class of a format ("npy-float" is NpyFloatUser).

    >>> user_class_name("npy-float")
    'NpyFloatUser'
    """
    assert source == "file" or source in FORMATS
    return "".join(part.capitalize() for part in source.split("-")) + "User"
