"""What the load generator's processes are told, and how it reaches them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
from smartbatch_load.load.payloads import FILE, FORMATS, PayloadSettings
from smartbatch_load.load.shapes import Step
from smartbatch_worker.contract import environment

ENV_CONFIG = "SMARTBATCH_LOAD"
"""JSON of a `LoadConfig`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadConfig:
    """One closed-loop run."""

    model: str = "resnet18"
    payload: PayloadSettings = field(default_factory=PayloadSettings)
    steps: tuple[Step, ...] = ()
    record_dir: str | None = None
    """Where each process writes its log of requests; None keeps none."""
    answers_file: str | None = None
    """Expected answers; None fetches them when the test starts."""
    timeout_s: float = 120.0

    def from_anywhere(self) -> LoadConfig:
        """The same for a process with another working directory."""
        images, bodies = self.payload.images, self.payload.bodies
        payload = replace(
            self.payload,
            images=images.resolve() if images else None,
            bodies=tuple(path.resolve() for path in bodies),
        )
        return replace(self, payload=payload)

    def as_dict(self) -> dict[str, Any]:
        """What makes a run what it is, as plain data; paths of this run left out."""
        return {
            "model": self.model,
            **self.payload.as_dict(),
            "steps": tuple(asdict(step) for step in self.steps),
            "timeout_s": self.timeout_s,
        }

    def to_env(self) -> dict[str, str]:
        """Environment that `from_env` reads this config back from."""
        return {ENV_CONFIG: msgspec.json.encode(self, enc_hook=str).decode()}

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> LoadConfig:
        """The config in the environment, or the defaults."""
        text = env.get(ENV_CONFIG)
        if text is None:
            return cls()
        try:
            return msgspec.json.decode(text, type=cls, dec_hook=_read_path)
        except msgspec.MsgspecError as error:
            raise ValueError(f"{ENV_CONFIG} must be the JSON of a load config: {error}") from error


def token(env: Mapping[str, str] = os.environ) -> str | None:
    """TorchServe's token; kept out of the config so that no report shows it."""
    return env.get(environment.TOKEN)


def authorization() -> dict[str, str]:
    """The header that shows the token, where there is one."""
    shown = token()
    return {"Authorization": f"Bearer {shown}"} if shown else {}


def user_class_name(source: str) -> str:
    """Locust user class of a format ("npy-float" is NpyFloatUser).

    >>> user_class_name("npy-float")
    'NpyFloatUser'
    """
    assert source == FILE or source in FORMATS
    return "".join(part.capitalize() for part in source.split("-")) + "User"


def _read_path(kind: type, value: Any) -> Path:
    """The one kind of value in a config that msgspec does not know."""
    assert kind is Path
    return Path(value)
