"""A model built and made a forward: what a load gives, and what of it is left to be measured."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.shapes import ItemShape, Sample, Samples, spelled
from smartbatch_worker.errors import ModelUnavailable
from smartbatch_worker.forward import calibrate
from smartbatch_worker.forward.batches import Batch, ByName, each
from smartbatch_worker.forward.calibrate import Calibration, Calibrations, Question
from smartbatch_worker.forward.choose import Compiled, compile_forward
from smartbatch_worker.forward.measurements import Measurements
from smartbatch_worker.models.load import ModelLoadError, build_model
from smartbatch_worker.models.load import max_batch_size as most_at_once

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Loaded:
    """A model in memory."""

    compiled: Compiled
    measurements: Measurements
    device: torch.device
    bound: int | None
    """The most items it takes at once."""
    largest: int
    """Micro-batch that is worth measuring."""
    takes_list: bool
    samples: Sequence[Sample]
    """To calibrate with; none where the micro-batch is given."""
    named: Samples
    """Of a model with named inputs."""
    calibrations: Calibrations | None = None
    is_uncalibrated: bool = False
    """Whether that takes too long for whoever waits for an answer."""
    num_threads: int = field(default_factory=torch.get_num_threads)
    """What it was loaded with: measurements are of so many."""

    @property
    def is_unsettled(self) -> bool:
        """Whether another way, or another micro-batch, may be faster."""
        return self.compiled.choice is not None or self.is_uncalibrated

    def questions(self, way: str) -> list[Question]:
        """What to calibrate, computed in this way: "winograd fp32"."""
        settings = " ".join((*reversed(way.split()), str(self.device)))
        return [Question(self.measurements, settings, sample, self.largest) for sample in self.samples]

    def missing(self) -> str | None:
        """The first of what is not measured, a key of `Measurements`; None where nothing is left."""
        choice = self.compiled.choice
        way = self.compiled.way if choice is None else choice.name()
        if choice is not None and way is None:
            return choice.key
        assert way is not None
        return next((question.key for question in self.questions(way) if question.kept() is None), None)

    def told_samples(self) -> list[tuple[ItemShape, Any]]:
        """Of named inputs, for another process: an item's shape, and as many as are ever measured at once."""
        # A sample's batch is valid until the next one's.
        return [(one.shape, each(torch.clone, one.batch(self.largest))) for one in self.named.measured]

    def calibrate(self, found: Sequence[Calibration | None]) -> None:
        """Take what is known of it."""
        self.calibrations = Calibrations([calibration for calibration in found if calibration is not None])


def load_model(
    config: WorkerConfig,
    model_dir: Path,
    cache_dir: Path,
    device: torch.device,
    max_batch_size: int,
    samples: Callable[[], Samples],
    *,
    at_once: bool,
) -> Loaded:
    """Build the model, and choose how it computes.

    Args:
        config: which model, and how.
        model_dir: the unpacked archive.
        cache_dir: where what is built and measured is kept.
        device: where it runs.
        max_batch_size: TorchServe's batch size.
        samples: of a model with named inputs, batches to measure and compare with.
        at_once: somebody waits for its first answer: what takes long to measure is left.

    Raises:
        ModelUnavailable: it cannot be built or compiled now.
    """
    try:
        module = build_model(config, model_dir)
        bound = most_at_once(module)
        module = module.to(device)
    except (ModelLoadError, OSError) as error:
        logger.error("cannot load the model: %s", error)
        raise ModelUnavailable(f"the model cannot be loaded now: {error}") from error
    except Exception as error:  # no room on the device, or a file that breaks a library's reader
        logger.exception("cannot load the model")
        raise ModelUnavailable(f"the model cannot be loaded now: {type(error).__name__}: {error}") from error
    takes_list = getattr(module, "takes_list", False)
    if not isinstance(module, torch.jit.ScriptModule):
        module = module.to(memory_format=torch.channels_last)
    if config.inputs is not None:
        module = ByName(module)
    is_measured = config.micro_batch == "auto"
    most = min(max_batch_size, calibrate.most_measured(device)) if is_measured else int(config.micro_batch)
    most = min(most, bound or most)
    shape = calibrate.known_shape(config)
    with torch.inference_mode():
        try:
            measurements = Measurements.of(model_dir, config, cache_dir)
            named = samples() if config.inputs is not None else Samples()
            made = compile_forward(module, config, device, shape, measurements, most, named, at_once=at_once)
        except Exception as error:  # compilers run the model, which may raise anything
            logger.exception("cannot compile the model")
            raise ModelUnavailable(f"the model cannot be compiled: {error}") from error
        random = (
            []
            if shape is None
            else [calibrate.random_sample(shape, min(most, calibrate.most_measured(device)), device)]
        )
        tried = (named.measured if config.inputs is not None else random) if is_measured else []
        loaded = Loaded(made, measurements, device, bound, most, takes_list, tried, named)
        if made.choice is None:
            _calibrate(loaded, at_once)
    return loaded


def _calibrate(loaded: Loaded, at_once: bool) -> None:
    """Find out which micro-batch is the fastest; where that takes long and the model is to answer, later."""
    device, made = loaded.device, loaded.compiled

    def forward(batch: Batch) -> Any:
        return made.forward(each(lambda tensor: tensor.to(device), batch))

    found = []
    for question in loaded.questions(made.way):
        try:
            calibration = question.kept()
            if calibration is None and (not at_once or question.is_quick(forward)):
                calibration = question.measured(forward, device, calibrate.BUDGET_S / len(loaded.samples))
            loaded.is_uncalibrated |= calibration is None
            found.append(calibration or question.kept(even_old=True))
        except Exception as error:
            logger.warning(
                "the micro-batch is not calibrated: the model does not take random numbers of shape %s, or what "
                "was measured cannot be kept (%s: %s). Set micro_batch to choose one",
                spelled(question.sample.shape),
                type(error).__name__,
                error,
            )
    loaded.calibrate(found)
