"""What was measured on this machine, kept for the workers and servers that start later.

A measurement holds for what it was taken of, and under what: its key names the model's bytes, the processor and how
much of it there is, threads, PyTorch and whatever else computes. It is no more than a week old, so that one taken on a
bad day does not stay.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, TypeGuard

import torch

from smartbatch_worker.contract import environment
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.machine import cpu_flags, cpu_name, num_cores
from smartbatch_worker.kernels import native
from smartbatch_worker.models import kind_of
from smartbatch_worker.process import cache as kept_files

logger = logging.getLogger(__name__)

MAX_AGE_S = 7 * 24 * 3600.0
MAX_AGE_OF_A_PART_S = 3600.0
"""Where something could not be measured that may be measured the next time."""
WHOLLY_READ_BYTES = 64 << 20
"""Of a larger file, its size and this much of both ends tell it from others."""

_CODE = (".py", ".c", ".h")
_COMPUTES = ("torch", "torchvision", "openvino", "onnxruntime", "onnxscript")
_MAX_FILE_BYTES = 1 << 20
_CLOCKS_APART_S = 60.0
_DIGEST_LETTERS = 32


@dataclass(frozen=True, slots=True)
class Measurements:
    """Seconds by name, by key.

    Args:
        folder: where they are kept, one file each, beside what is built.
        tell_model: what tells the model from every other.
        since: what was measured before, in unix seconds, is measured again.
        here: what beside the model decides how long a forward takes: of the thread that computes it.
    """

    folder: Path
    tell_model: Callable[[], str] = str
    since: float = 0.0
    here: str = field(default_factory=lambda: _here())

    @classmethod
    def of(cls, model_dir: Path, config: WorkerConfig, folder: Path) -> Measurements:
        """Of one archive's model.

        Args:
            model_dir: the unpacked archive.
            config: which file in it is the model, and which the weights.
            folder: where they are kept.
        """
        marker = model_dir / environment.MEASURED_SINCE_FILE
        since = marker.stat().st_mtime if marker.exists() else 0.0
        return cls(folder, cache(lambda: _tell(model_dir, config)), since)

    def remember(
        self,
        key: str,
        measure_it: Callable[[], Mapping[Any, float]],
        is_name: Callable[[str], bool],
        is_whole: Callable[[], bool] = lambda: True,
    ) -> dict[str, float]:
        """The seconds measured under `key` on this machine, or measured now and kept for the next worker.

        Workers that start together take turns: the first measures undisturbed, the others read. What is kept there but
        is no measurement is measured again; where nothing can be kept, each worker measures for itself.

        Args:
            key: of the measurement; what `Measurements` knows by itself is added.
            measure_it: seconds by name.
            is_name: whether a name is one that `measure_it` might give.
            is_whole: asked after measuring; what is not, is measured again after an hour.
        """
        full_key, path = self._place(key)
        kept = self._read(path, full_key, is_name)
        if kept is not None:
            return kept
        with ExitStack() as stack:
            try:
                stack.enter_context(kept_files.locked(self.folder, "measurement", path.stem))
            except OSError as error:
                logger.warning("what is measured is not kept: %s", error)
            kept = self._read(path, full_key, is_name, tells_damage=True)
            if kept is None:
                kept = {str(measured): seconds for measured, seconds in measure_it().items()}
                self._keep(path, full_key, kept, MAX_AGE_S if is_whole() else MAX_AGE_OF_A_PART_S)
            return kept

    def kept(self, key: str, is_name: Callable[[str], bool]) -> dict[str, float] | None:
        """What `remember` would give without measuring; None where it would measure."""
        full_key, path = self._place(key)
        return self._read(path, full_key, is_name)

    def last_known(self, key: str, is_name: Callable[[str], bool]) -> dict[str, float] | None:
        """What was measured last on this machine, however long ago; None where nothing was."""
        full_key, path = self._place(key)
        return self._read(path, full_key, is_name, even_old=True)

    def name_of(self, key: str) -> str:
        """In hexadecimal, what tells this measurement from all others."""
        return self._place(key)[1].stem

    def _place(self, key: str) -> tuple[str, Path]:
        """The whole key, and the file that is named after it."""
        full_key = f"{key} model={self.tell_model()} {self.here}"
        name = hashlib.sha256(full_key.encode()).hexdigest()[:_DIGEST_LETTERS]
        return full_key, self.folder / f"{name}.json"

    def _read(
        self,
        path: Path,
        key: str,
        is_name: Callable[[str], bool],
        *,
        even_old: bool = False,
        tells_damage: bool = False,
    ) -> dict[str, float] | None:
        """What is kept, if it is a measurement, under this key, and neither too old nor of days to come."""
        try:
            with path.open("rb") as file:
                entry = json.loads(file.read(_MAX_FILE_BYTES))
        except OSError:
            return None
        except (ValueError, RecursionError):
            entry = None
        if not _is_entry(entry, key, is_name):
            if tells_damage:
                logger.warning("%s cannot be read as a measurement, and is measured again", path)
            return None
        seconds, measured, until = entry["seconds"], entry["measured"], entry["until"]
        now = time.time()
        is_current = self.since <= measured <= now + _CLOCKS_APART_S and now < until <= measured + MAX_AGE_S
        if not (is_current or even_old):
            return None
        kept_files.note_use(path)
        return dict(seconds)

    def _keep(self, path: Path, key: str, seconds: Mapping[str, float], max_age_s: float) -> None:
        now = time.time()
        entry = {"key": key, "measured": now, "until": now + max_age_s, "seconds": seconds}
        try:
            with kept_files.scratch(self.folder) as scratch:
                partial = scratch / path.name
                partial.write_text(json.dumps(entry, indent=1), encoding="utf-8")
                kept_files.keep(partial, path)
        except OSError as error:
            logger.warning("what was measured is not kept: %s", error)


def _is_entry(entry: Any, key: str, is_name: Callable[[str], bool]) -> TypeGuard[dict[str, Any]]:
    """Whether a file's contents are seconds by name, as written under this key."""
    if not isinstance(entry, dict) or entry.get("key") != key:
        return False
    seconds = entry.get("seconds")
    return (
        isinstance(entry.get("measured"), float)
        and isinstance(entry.get("until"), float)
        and isinstance(seconds, dict)
        and len(seconds) > 0
        and all(is_name(name) for name in seconds)
        and all(isinstance(value, float) and 0 <= value < math.inf for value in seconds.values())
    )


def _here() -> str:
    """Whatever beside the model decides how long a forward takes."""
    flags = hashlib.sha256(" ".join(sorted(cpu_flags())).encode()).hexdigest()[:_DIGEST_LETTERS]
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return (
        f"threads={torch.get_num_threads()} cores={num_cores()} cpu={cpu_name()} flags={flags} "
        f"capability={torch.backends.cpu.get_cpu_capability()} gpus={gpus} "
        f"compiler={native.compiler_id()} {' '.join(f'{name}={_version(name)}' for name in _COMPUTES)}"
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _tell(model_dir: Path, config: WorkerConfig) -> str:
    """A digest of the archive's code, ours included, of its model and its weights: of all that a forward is made of.

    With it what the kind of model goes by: libraries that are not in the archive, and settings.
    """
    kind, model = kind_of(config.model), model_dir / config.model
    files = {path for path in model_dir.rglob("*") if path.suffix in _CODE} | {model}
    if config.weights is not None:
        files.add(model_dir / config.weights)
    if kind.weights_beside is not None:
        files |= set(model.parent.glob(kind.weights_beside))
    digest = hashlib.blake2b(digest_size=_DIGEST_LETTERS // 2)
    for path in sorted(path for path in files if path.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(model_dir)} {size} ".encode())
        with path.open("rb") as file:
            digest.update(file.read(WHOLLY_READ_BYTES))
            if size > WHOLLY_READ_BYTES:
                file.seek(max(WHOLLY_READ_BYTES, size - WHOLLY_READ_BYTES))
                digest.update(file.read())
    told = (config.model, config.model_class, config.num_classes, *(getattr(config, key) for key in kind.settings))
    libraries = "".join(f" {name}={_version(name)}" for name in kind.libraries)
    return f"{':'.join(map(str, told))}:{digest.hexdigest()}{libraries}"
