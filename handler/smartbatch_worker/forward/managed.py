"""The model's life: loaded at the first request (or at start), run, freed when idle, loaded again.

One lock guards the weights: TorchServe calls a worker one batch at a time, but the idle timer lives in its own thread.
"""

from __future__ import annotations

import gc
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.shapes import ItemShape, Samples
from smartbatch_worker.forward.batches import Batch, each
from smartbatch_worker.forward.calibrate import Calibrations
from smartbatch_worker.forward.choose import Compiled
from smartbatch_worker.forward.later import NotMeasuredError, Order, have_measured
from smartbatch_worker.forward.loading import Loaded, load_model
from smartbatch_worker.forward.weights import share
from smartbatch_worker.kernels.pixels import DeviceNormaliser
from smartbatch_worker.models.load import describe_weights
from smartbatch_worker.process import heap

logger = logging.getLogger(__name__)

UNMEASURED_SIZE = 8
"""Most items in one forward on a CPU, while it is not known which number is the fastest."""

RETURN_AFTER_S = 5.0
"""Without a batch: the memory of its tensors is returned. The next takes it anew, page by page, a tenth of its time."""


def _ignore(*_: object) -> None:
    """Of a caller that need not be told."""


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
        on_measuring: told True when a load leaves something to be measured or built, False when that is over.
        samples: of a model with named inputs, batches to measure and compare with; asked while loading.
        weights_dir: where the server's workers share a file of weights; None: this model is no worker's.
    """

    def __init__(
        self,
        config: WorkerConfig,
        model_dir: Path,
        cache_dir: Path,
        device: torch.device,
        max_batch_size: int,
        on_load: Callable[[float], None] = _ignore,
        on_unload: Callable[[], None] = _ignore,
        on_measuring: Callable[[bool], None] = _ignore,
        samples: Callable[[], Samples] = Samples,
        weights_dir: Path | None = None,
    ) -> None:
        self._config = config
        self._model_dir, self._cache_dir = model_dir, cache_dir
        self.device = device
        self._max_batch_size = max_batch_size
        self._on_load = on_load
        self._on_unload = on_unload
        self._on_measuring = on_measuring
        self._samples, self._weights_dir = samples, weights_dir
        self.measures_first = config.load == "eager"
        """Whether a load measures before it answers: who waits for it has time, and who judges wants what it finds."""
        self._unsettled: Loaded | None = None
        self._lock = threading.RLock()
        self._module_bound: int | None = None
        self._compiled: Compiled | None = None
        self.compiler, self.precision = config.compile, config.precision
        self._last_used = time.monotonic()
        self.calibrations: Calibrations | None = None
        self.takes_list = False
        """Whether the model is called with a list of items, of any shapes; known once it was loaded."""
        self.takes_pixels = False
        """Whether uint8 [..., C, H, W] are pixels, to be normalised on the device; else they are the model's own."""
        self._num_items = self._num_padded = 0
        self.num_loads = 0
        self.load_seconds = 0.0
        if config.idle_unload_s > 0 or weights_dir is not None:
            threading.Thread(target=self._tidy_when_idle, name="smartbatch-idle", daemon=True).start()

    @property
    def is_loaded(self) -> bool:
        """Whether the weights are in memory."""
        return self._compiled is not None

    @property
    def is_measuring(self) -> bool:
        """Whether the fastest way is still being measured or built, or its weights shared, while another answers."""
        return self._unsettled is not None

    @contextmanager
    def kept_as_it_is(self) -> Iterator[None]:
        """Nothing is freed or exchanged for the length of the block: tracing a model disturbs all others' modules."""
        with self._lock:
            yield

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
            return self._compiled.forward(each(self._arrived, batch))

    def _arrived(self, tensor: torch.Tensor) -> torch.Tensor:
        """On the device, pixels normalised."""
        there = tensor.to(self.device, non_blocking=True)
        return self._normalised(there) if self.takes_pixels and there.dtype == torch.uint8 else there

    @cached_property
    def _normalised(self) -> DeviceNormaliser:
        return DeviceNormaliser(self._config.image_mean, self._config.image_std, self.device)

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
            size = min(self._max_batch_size, UNMEASURED_SIZE) if self.is_measuring else self._max_batch_size
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
            self._settled()
            self._free()
        logger.info("model freed from memory")
        self._on_unload()

    def _load(self) -> None:
        start = time.perf_counter()
        at_once = not self.measures_first and self.device.type == "cpu"
        loaded = load_model(
            self._config,
            self._model_dir,
            self._cache_dir,
            self.device,
            self._max_batch_size,
            self._samples,
            at_once=at_once,
        )
        self._take(loaded)
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
        if loaded.is_unsettled:
            self._unsettled = loaded
            self._on_measuring(True)
        threading.Thread(target=self._after_load, args=(loaded,), name="smartbatch-loaded", daemon=True).start()

    def _take(self, loaded: Loaded) -> None:
        """Compute by it from now on."""
        made = loaded.compiled
        self._compiled, self.compiler, self.precision = made, made.name, made.precision
        self._module_bound, self.takes_list = loaded.bound, loaded.takes_list
        self.calibrations = loaded.calibrations
        self._num_items = self._num_padded = 0

    def _after_load(self, loaded: Loaded) -> None:
        """In a thread of its own: what no answer has to wait for."""
        try:
            if loaded.is_unsettled:
                self._settle(loaded)
            if self._weights_dir is not None and self.device.type == "cpu":
                self._share_weights(self._weights_dir)
        finally:
            with self._lock:
                if self._unsettled is loaded:
                    self._settled()

    def _settled(self) -> None:
        """Nothing is measured or built in the background any more; called under the lock."""
        if self._unsettled is not None:
            self._on_measuring(False)
            self._unsettled = None

    def _share_weights(self, folder: Path) -> None:
        """Have the weights in memory once for all workers of this server."""
        with self._lock:
            compiled = self._compiled
        if compiled is None:
            return
        try:
            with torch.inference_mode():
                num_bytes = share(compiled.modules, folder, self.kept_as_it_is)
        except Exception as error:  # whatever it is: this worker has its own
            logger.warning("weights are not shared with other workers: %s: %s", type(error).__name__, error)
            return
        if num_bytes:
            self._free()
            logger.info("%.1f MB of weights are shared by all workers of this model", num_bytes / 1e6)

    def _settle(self, loaded: Loaded) -> None:
        """Have measured what is not known, and compute by what is then the fastest."""
        try:
            with torch.inference_mode():
                if loaded.missing() is not None:
                    self._exchange(loaded, even_old=True)
                    logger.info("answering by %s %s while the fastest way is measured", self.compiler, self.precision)
                    self._have_measured(loaded)
                self._exchange(loaded)
        except (NotMeasuredError, OSError) as error:
            logger.warning("not measured, the model goes on as it is: %s", error)
        except Exception:  # it may be anything that a library raises, and nobody waits for it
            logger.exception("the fastest way is not taken: the model goes on as it is")

    def _have_measured(self, loaded: Loaded) -> None:
        missing = loaded.missing()
        assert missing is not None
        order = Order(
            config=self._config,
            model_dir=self._model_dir,
            cache_dir=self._cache_dir,
            max_batch_size=self._max_batch_size,
            samples=loaded.told_samples(),
            compared=loaded.named.compared,
            num_threads=loaded.num_threads,
        )
        have_measured(order, loaded.measurements.name_of(missing), lambda: loaded.missing() is None)

    def _exchange(self, loaded: Loaded, *, even_old: bool = False) -> None:
        """Between two batches, compute by the fastest way that is known."""
        first = loaded.compiled
        made = first if first.choice is None else first.choice.known(self.kept_as_it_is, even_old=even_old)
        if made is None:
            return
        questions = loaded.questions(made.way)
        loaded.calibrate([question.kept(even_old=even_old) for question in questions])
        with self._lock:
            if self._unsettled is not loaded or self._compiled is None:
                return  # freed meanwhile: the next load finds what was measured
            self._take(replace(loaded, compiled=made))
        if not even_old:
            loaded.compiled = made  # what answered until now is freed
        del first
        self._free()
        logger.info("answering by %s in %s from now on: %s", made.name, made.precision, self.weights_description())

    def _free(self) -> None:
        """Give back what nothing needs any more; traced modules hold themselves."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        heap.return_free_memory()

    def _tidy_when_idle(self) -> None:
        """Free the weights where that is configured; before, what batches left to be reused."""
        unload_after_s, returned_since = self._config.idle_unload_s or math.inf, self._last_used
        while True:
            idle_since = self._last_used
            idle_s = time.monotonic() - idle_since
            if self.is_loaded and idle_s >= unload_after_s:
                self.unload()  # which returns that memory as well
                returned_since = idle_since
            elif idle_s >= RETURN_AFTER_S and idle_since != returned_since:
                heap.return_free_memory()
                returned_since = idle_since
            left_s = unload_after_s - idle_s if self.is_loaded else unload_after_s
            time.sleep(max(0.05, min(1.0, left_s)))
