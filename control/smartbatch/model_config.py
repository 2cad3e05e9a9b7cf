"""model-config.yaml: TorchServe's keys beside the handler's section, and what a user sets in either."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from smartbatch_worker.contract.config import WorkerConfig

from smartbatch.errors import UsageError

CONFIG_FILE = "model-config.yaml"
SECTION = "handler"
FRONTEND_KEYS = ("responseTimeout", "startupTimeout", "jobQueueSize", "maxRetryTimeoutInSec")
"""TorchServe's own that may be set: whole numbers from 1 on."""


def apply_overrides(frontend: dict[str, Any], section: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Set keys, each where it belongs.

    Args:
        frontend: TorchServe's keys.
        section: the handler's.
        given: values, or texts of such, by key.

    Raises:
        UsageError: an unknown key, or a value that it does not take.
    """
    for key, value in given.items():
        if key in FRONTEND_KEYS:
            frontend[key] = _whole_number(key, value)
        else:
            section[key] = value
    try:
        config = WorkerConfig.resolve(section, {})
    except ValueError as error:
        raise UsageError(str(error)) from error
    for key in given:
        if key in section:  # as the parsed value, not as the text it came in
            section[key] = config.as_dict()[key]


def changed_config(text: str, given: Mapping[str, str]) -> str:
    """The content of a model-config.yaml with some keys set.

    Raises:
        UsageError: as `apply_overrides`; or the file is not one of SmartBatch's handler.
    """
    try:
        frontend = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"the archive's {CONFIG_FILE} cannot be read: {error}") from error
    section = frontend.pop(SECTION, None) if isinstance(frontend, dict) else None
    if not isinstance(section, dict):
        raise UsageError(f"the archive's {CONFIG_FILE} has no {SECTION}: section, so there is nothing to set in it")
    apply_overrides(frontend, section, given)
    return spelled(frontend, section, "retune")


def spelled(frontend: Mapping[str, Any], section: Mapping[str, Any], command: str) -> str:
    """The file's content; `command` is who says so."""
    body = yaml.safe_dump({**frontend, SECTION: section}, sort_keys=False, allow_unicode=True)
    return f"# Written by `smartbatch {command}`.\n{body}"


def _whole_number(key: str, value: Any) -> int:
    try:
        number = int(str(value))
    except ValueError:
        number = 0
    if number < 1:
        raise UsageError(f"{key} must be a whole number from 1 on, got {value!r}")
    return number
