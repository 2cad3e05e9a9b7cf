"""The model's life: loaded at the first request (or at start), run, freed when idle, loaded again.

One lock guards the weights: TorchServe calls a worker one batch at a time, but the idle timer lives in its own thread.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.shapes import ItemShape, Sample, spelled
from smartbatch_worker.errors import ModelUnavailable
from smartbatch_worker.forward import calibrate
from smartbatch_worker.forward.batches import Batch, ByName, each
from smartbatch_worker.forward.calibrate import Calibration, Calibrations
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
        samples: of a model with named inputs, batches of these to measure with; asked while loading.
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
        samples: Callable[[], Sequence[Sample]] = tuple,
    ) -> None:
        self._config = config
        self._model_dir, self._cache_dir = model_dir, cache_dir
        self.device = device
        self._max_batch_size = max_batch_size
        self._on_load = on_load
        self._on_unload = on_unload
        self._samples = samples
        self._lock = threading.RLock()
        self._module_bound: int | None = None
        self._compiled: Compiled | None = None
        self.compiler, self.precision = config.compile, config.precision
        self._last_used = time.monotonic()
        self.calibrations: Calibrations | None = None
        self.takes_list = False
        """Whether the model is called with a list of items, of any shapes; known once it was loaded."""
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

    def forward(self, batch: Batch) -> Any:
        """Run the model on a batch from the host, mostly float32 [N, ...]; call inside `ready()`.

        Returns:
            What the model gives; it may lie in memory of `batch` or of the model: copy it before either is used again.
        """
        assert self._compiled is not None, "forward() is called inside ready()"
        if isinstance(batch, torch.Tensor):
            self._num_items += len(batch)
            self._num_padded += self._compiled.padding(batch.shape) or 0
        with torch.inference_mode():
            return self._compiled.forward(each(lambda tensor: tensor.to(self.device, non_blocking=True), batch))

    def __call__(self, *batch: Batch, **named: torch.Tensor) -> Any:
        """As `forward`, or with named inputs by name: how a handler's own `inference` calls its model."""
        if len(batch) + bool(named) != 1:
            raise TypeError("the model is called with one batch, or with all of its inputs by name")
        return self.forward(batch[0] if batch else named)

    def padding_ratio(self) -> float:
        """Of the items run since the last call, the share that were padding."""
        num_run = self._num_items + self._num_padded
        ratio = self._num_padded / num_run if num_run else 0.0
        self._num_items = self._num_padded = 0
        return ratio

    def micro_batch_size(self, shape: ItemShape) -> int:
        """Most items of this shape in one forward."""
        calibration = self.calibrations.of(shape) if self.calibrations is not None else None
        if self._config.micro_batch != "auto":
            size = int(self._config.micro_batch)
        elif calibration is not None:
            size = calibration.size_for(shape)
        else:
            size = self._max_batch_size
        return size if self._module_bound is None else min(size, self._module_bound)

    def timings(self) -> list[tuple[ItemShape, dict[int, float]]]:
        """Seconds of a forward by its items, for each shape that was measured."""
        measured = self.calibrations.measured if self.calibrations is not None else ()
        return [(calibration.shape, calibration.seconds()) for calibration in measured]

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
        self.takes_list = getattr(module, "takes_list", False)
        if not isinstance(module, torch.jit.ScriptModule):
            module = module.to(memory_format=torch.channels_last)
        if self._config.inputs is not None:
            module = ByName(module)
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
            if self._config.micro_batch == "auto" and self.calibrations is None:
                self.calibrations = Calibrations(self._calibrate_all(measurements, shape))
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

    def _calibrate_all(self, measurements: Measurements, shape: tuple[int, ...] | None) -> list[Calibration]:
        most = self._largest_micro_batch()
        random = [] if shape is None else [calibrate.random_sample(shape, min(most, calibrate.MAX_LARGEST))]
        samples = self._samples() if self._config.inputs is not None else random
        made = (self._try_calibrate(measurements, sample, calibrate.BUDGET_S / len(samples)) for sample in samples)
        return [calibration for calibration in made if calibration is not None]

    def _try_calibrate(self, measurements: Measurements, sample: Sample, budget_s: float) -> Calibration | None:
        """Time the forward; None where the model does not take these numbers, as one of indexes may not."""
        settings = f"{self.precision} {self.compiler} {self.device}"
        try:
            return calibrate.calibrate(
                measurements, settings, self.forward, sample, self._largest_micro_batch(), self.device, budget_s
            )
        except Exception as error:
            logger.warning(
                "the micro-batch is not calibrated: the model does not take random numbers of shape %s, or what was "
                "measured cannot be kept (%s: %s). Set micro_batch to choose one",
                spelled(sample.shape),
                type(error).__name__,
                error,
            )
            return None

    def _unload_when_idle(self) -> None:
        while True:
            idle_s = time.monotonic() - self._last_used
            if self.is_loaded and idle_s >= self._config.idle_unload_s:
                self.unload()
                idle_s = 0.0
            time.sleep(max(0.05, min(1.0, self._config.idle_unload_s - idle_s)))
