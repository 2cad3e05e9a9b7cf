"""The model's life: loaded at the first request (or at start), run, freed when idle, loaded again.

One lock guards the weights: TorchServe calls a worker one batch at a time, but the idle timer lives in its own thread.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.errors import ModelUnavailable
from smartbatch_worker.forward import calibrate
from smartbatch_worker.forward.choose import Compiled, compile_forward
from smartbatch_worker.forward.measurements import Measurements
from smartbatch_worker.models.load import ModelLoadError, build_model, describe_weights, max_batch_size
from smartbatch_worker.process import heap

logger = logging.getLogger(__name__)


class ManagedModel:
    """A model that is in memory only when it is needed.

    Args:
        config: the handler's configuration.
        model_dir: the extracted archive.
        cache_dir: where what is built and measured is kept for later workers.
        device: where the forward runs.
        max_batch_size: TorchServe's batch size, the most calibration tries.
        on_load: told the seconds a load took.
        on_unload: told when the weights were freed.
    """

    def __init__(
        self,
        config: WorkerConfig,
        model_dir: Path,
        cache_dir: Path,
        device: torch.device,
        max_batch_size: int,
        on_load: Callable[[float], None],
        on_unload: Callable[[], None],
    ) -> None:
        self._config = config
        self._model_dir, self._cache_dir = model_dir, cache_dir
        self.device = device
        self._max_batch_size = max_batch_size
        self._on_load = on_load
        self._on_unload = on_unload
        self._lock = threading.RLock()
        self._module_bound: int | None = None
        self._compiled: Compiled | None = None
        self.compiler, self.precision = config.compile, config.precision
        self._last_used = time.monotonic()
        self.micro_batch: calibrate.Calibration | None = None
        self._num_items = self._num_padded = 0
        self.num_loads = 0
        self.load_seconds = 0.0
        if config.idle_unload_s > 0:
            threading.Thread(target=self._unload_when_idle, name="smartbatch-idle", daemon=True).start()

    @property
    def is_loaded(self) -> bool:
        """Whether the weights are in memory."""
        return self._compiled is not None

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Load if need be, and hold the weights in memory for the length of the block.

        Raises:
            ModelUnavailable: the weights cannot be loaded now; the next call tries again.
        """
        with self._lock:
            if self._compiled is None:
                self._load()
            try:
                yield
            finally:
                self._last_used = time.monotonic()

    def forward(self, batch: torch.Tensor) -> Any:
        """Run the model on float32 [N, ...] from the host; call inside `ready()`.

        Returns:
            What the model gives; it may lie in memory of `batch` or of the model: copy it before either is used again.
        """
        assert self._compiled is not None, "forward() is called inside ready()"
        self._num_items += len(batch)
        self._num_padded += self._compiled.padding(batch.shape) or 0
        with torch.inference_mode():
            return self._compiled.forward(batch.to(self.device, non_blocking=True))

    def padding_ratio(self) -> float:
        """Of the items run since the last call, the share that were padding."""
        num_run = self._num_items + self._num_padded
        ratio = self._num_padded / num_run if num_run else 0.0
        self._num_items = self._num_padded = 0
        return ratio

    def micro_batch_size(self, shape: tuple[int, ...]) -> int:
        """Most items of this shape in one forward."""
        if self._config.micro_batch != "auto":
            size = int(self._config.micro_batch)
        elif self.micro_batch is not None:
            size = self.micro_batch.size_for(shape)
        else:
            size = self._max_batch_size
        return size if self._module_bound is None else min(size, self._module_bound)

    def weights_description(self) -> str:
        """Where the weights are from, for status, log and header."""
        return describe_weights(self._config)

    def unload(self) -> None:
        """Free the weights; the next request loads them again."""
        with self._lock:
            if self._compiled is None:
                return
            self._compiled = None
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            heap.return_free_memory()
        logger.info("model freed from memory")
        self._on_unload()

    def _load(self) -> None:
        start = time.perf_counter()
        try:
            module = build_model(self._config, self._model_dir)
            self._module_bound = max_batch_size(module)
            module = module.to(self.device)
        except (ModelLoadError, OSError) as error:
            logger.error("cannot load the model: %s", error)
            raise ModelUnavailable(f"the model cannot be loaded now: {error}") from error
        except Exception as error:  # no room on the device, or a file that breaks a library's reader
            logger.exception("cannot load the model")
            raise ModelUnavailable(f"the model cannot be loaded now: {type(error).__name__}: {error}") from error
        if not isinstance(module, torch.jit.ScriptModule):
            module = module.to(memory_format=torch.channels_last)
        shape = calibrate.known_shape(self._config)
        with torch.inference_mode():
            try:
                measurements = Measurements.of(self._model_dir, self._config, self._cache_dir)
                made = compile_forward(
                    module, self._config, self.device, shape, measurements, self._largest_micro_batch()
                )
            except Exception as error:  # compilers run the model, which may raise anything
                logger.exception("cannot compile the model")
                raise ModelUnavailable(f"the model cannot be compiled: {error}") from error
            self._compiled, self.compiler, self.precision = made, made.name, made.precision
            if shape is not None and self._config.micro_batch == "auto" and self.micro_batch is None:
                self.micro_batch = self._try_calibrate(measurements, shape)
        self._num_items = self._num_padded = 0  # calibration's do not count
        heap.return_free_memory()  # loading takes several times what stays
        self.load_seconds = time.perf_counter() - start
        self.num_loads += 1
        logger.info(
            "model loaded in %.2f s: %s, weights: %s",
            self.load_seconds,
            self._config.model,
            self.weights_description(),
        )
        self._on_load(self.load_seconds)

    def _largest_micro_batch(self) -> int:
        """Of items whose shape is known."""
        is_measured = self._config.micro_batch == "auto"
        size = min(self._max_batch_size, calibrate.MAX_LARGEST) if is_measured else int(self._config.micro_batch)
        return min(size, self._module_bound or size)

    def _try_calibrate(self, measurements: Measurements, shape: tuple[int, ...]) -> calibrate.Calibration | None:
        """Time the forward on random numbers; None where the model does not take them, as one of indexes may not."""
        try:
            return self._calibrate(measurements, shape)
        except Exception as error:
            logger.warning(
                "the micro-batch is not calibrated: the model does not take random numbers of shape %s, or what was "
                "measured cannot be kept (%s: %s). Set micro_batch to choose one",
                list(shape),
                type(error).__name__,
                error,
            )
            return None

    def _calibrate(self, measurements: Measurements, shape: tuple[int, ...]) -> calibrate.Calibration:
        settings = f"{self.precision} {self.compiler} {self.device}"
        most = self._largest_micro_batch()
        return calibrate.calibrate(measurements, settings, self.forward, shape, most, self.device)

    def _unload_when_idle(self) -> None:
        while True:
            idle_s = time.monotonic() - self._last_used
            if self.is_loaded and idle_s >= self._config.idle_unload_s:
                self.unload()
                idle_s = 0.0
            time.sleep(max(0.05, min(1.0, self._config.idle_unload_s - idle_s)))
