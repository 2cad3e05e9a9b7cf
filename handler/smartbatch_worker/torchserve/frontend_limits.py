"""How large an answer may be: a setting of TorchServe's frontend, which does not tell its workers.

An answer over the limit closes the worker's channel: its whole batch fails, and the worker with it.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from smartbatch_worker.process.frontend import frontend_pid

logger = logging.getLogger(__name__)

TORCHSERVE_DEFAULT_BYTES = 6_553_500
_PROPERTY = "max_response_size"
_ENVIRONMENT = "TS_MAX_RESPONSE_SIZE"
_CONFIG_FLAGS = ("-f", "--ts-config-file")
_LINE = re.compile(r"\s*([^#!=:\s][^=:\s]*)\s*[=:\s]\s*(.*)")


def max_response_bytes() -> int:
    """The most bytes that this worker's frontend takes as one answer; TorchServe's own default where nobody says."""
    try:
        frontend = psutil.Process(frontend_pid())
        return response_limit(frontend.cmdline(), Path(frontend.cwd()), os.environ)
    except (psutil.Error, OSError, ValueError) as error:
        logger.warning("answers are limited to %d bytes: %s", TORCHSERVE_DEFAULT_BYTES, error)
        return TORCHSERVE_DEFAULT_BYTES


def response_limit(command: Sequence[str], folder: Path, env: Mapping[str, str]) -> int:
    """As the frontend itself works it out.

    Args:
        command: the frontend's command line.
        folder: its working directory.
        env: its environment, which its workers inherit.

    Raises:
        OSError: its config.properties cannot be read.
        ValueError: the limit is no number.
    """
    properties = _properties(command, folder, env)
    text = properties.get(_PROPERTY)
    if properties.get("enable_envvars_config", "false").lower() == "true":
        text = env.get(_ENVIRONMENT, text)
    return TORCHSERVE_DEFAULT_BYTES if text is None else int(text)


def _properties(command: Sequence[str], folder: Path, env: Mapping[str, str]) -> dict[str, str]:
    """The settings in the frontend's config.properties; none where it was started without."""
    named = next((value for flag, value in itertools.pairwise(command) if flag in _CONFIG_FLAGS), None)
    path = env.get("TS_CONFIG_FILE") or named
    if path is None and not (folder / "config.properties").is_file():
        return {}
    text = (folder / (path or "config.properties")).read_text(encoding="utf-8", errors="replace")
    return {match[1]: match[2].strip() for line in text.splitlines() if (match := _LINE.match(line))}
