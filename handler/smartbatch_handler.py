"""TorchServe's entry point: its one class reads as the data flow.

    rows ──decode──▶ items ──plan──▶ micro-batches ──forward──▶ answers ──encode──▶ one reply a row, in order

Subclass it to change how one item is read or answered, or what is done with a whole batch:

    from smartbatch_handler import SmartBatchHandler

    class MyHandler(SmartBatchHandler):
        def preprocess_item(self, body, headers): ...   # bytes -> a tensor, a dict of named inputs, or a list
        def inference(self, batch): ...                 # a whole micro-batch -> one output an item
        def postprocess_item(self, output): ...         # one item's output -> anything JSON can hold
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from smartbatch_worker.contract import media_types
from smartbatch_worker.contract import metrics as names
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.description import Description, ExampleBody, example_of
from smartbatch_worker.contract.shapes import ItemShape, Samples, spelled
from smartbatch_worker.errors import RowError, blame_server
from smartbatch_worker.flow import decode, examples, recover
from smartbatch_worker.flow.answers import outputs
from smartbatch_worker.flow.answers.open_inference import Served
from smartbatch_worker.flow.batch import Item, MicroBatch
from smartbatch_worker.flow.batchers import Batcher, ListBatcher, NamedBatcher, TensorBatcher
from smartbatch_worker.flow.decoder_pool import DecoderPool
from smartbatch_worker.flow.rows import Row, check_deadline, fail_unanswered, inflate
from smartbatch_worker.flow.split import AnswerSplitter
from smartbatch_worker.flow.stack import Stacker
from smartbatch_worker.flow.texts.reader import TextReader
from smartbatch_worker.forward import weights
from smartbatch_worker.forward.managed import ManagedModel
from smartbatch_worker.kernels import json_numbers, pixels
from smartbatch_worker.process import cache, heap
from smartbatch_worker.process.threads import ThreadShare
from smartbatch_worker.torchserve import tracing, wire, worker_output
from smartbatch_worker.torchserve.batch_target import BatchTarget
from smartbatch_worker.torchserve.frontend_limits import max_response_bytes
from smartbatch_worker.torchserve.replies import Replies
from smartbatch_worker.torchserve.requests import is_describe, read_rows
from smartbatch_worker.torchserve.telemetry import StageTimer, Telemetry

logger = logging.getLogger(__name__)


class SmartBatchHandler:
    """Serves one model in one worker process."""

    def initialize(self, context: Any) -> None:
        """Read the configuration; load the weights only if it says `load: eager`."""
        write_metrics = _take_over_worker()
        heap.keep_large_blocks()
        properties = context.system_properties
        section = (context.model_yaml_config or {}).get("handler") or {}
        self.config = WorkerConfig.resolve(section, os.environ)
        self.model_dir = Path(properties["model_dir"])
        cache_dir = cache.open_cache(os.environ, self.model_dir)
        json_numbers.prepare(cache_dir)
        pixels.prepare(cache_dir)
        decode.prepare(self.config)
        self._texts = TextReader.of(self.model_dir, self.config)
        self.labels = outputs.read_labels(self.model_dir, self.config.labels)
        self.telemetry = Telemetry(context.model_name, _worker_name(sys.argv), write_metrics)
        self._traces = tracing.open_traces(context.model_name, os.environ)
        self.device = device = _pick_device(self.config.device, properties.get("gpu_id"))
        self.model = ManagedModel(
            self.config,
            self.model_dir,
            cache_dir,
            device,
            int(properties["batch_size"] or 1),
            self._loaded,
            self._unloaded,
            partial(self.telemetry.gauge, names.MODEL_MEASURING, per_worker=True),
            self._samples,
            None if write_metrics is None else weights.folder_of(self.model_dir),
        )
        self._threads = ThreadShare(self.config.threads)
        self._decoders = DecoderPool.of(self.config, device, self._overridden)
        self._batcher = self._named_or_tensor(device.type == "cuda")
        self._target = BatchTarget(
            self.config.target_p95_ms,
            int(properties["batch_size"] or 1),
            lambda: [seconds for _, seconds in self.model.timings()],
            self.telemetry,
        )
        self._ceilings = recover.MemoryCeilings()
        self._splitter = AnswerSplitter()
        self._replies = Replies(
            self.config,
            self.labels,
            self.postprocess_item,
            "postprocess_item" in self._overridden,
            max_response_bytes(),
            Served(context.model_name, str(context.manifest["model"].get("modelVersion", ""))),
            None if self._texts is None else self._texts.spell,
        )
        # The model sees to its own; what a user computes beside it needs no gradients either.
        self._infer = torch.inference_mode()(self.inference) if "inference" in self._overridden else self.inference
        self.telemetry.add(self.telemetry.zeros())
        # Of one tensor, any size runs as it is, but where CUDA graphs pad; dashboards of padding servers expect it.
        self.telemetry.gauge(names.PADDING_RATIO, 0)
        self.telemetry.gauge(names.WEIGHTS_RANDOM, float(self.config.weights_source == "random"))
        self._unloaded()
        if self.config.load == "eager":
            self._threads.share()
            with self.model.ready():
                pass

    def handle(self, data: Sequence[Mapping[str, Any]], context: Any) -> list[bytes]:
        """Answer one batch: as many replies as rows, in the same order, each with its own status."""
        if is_describe(data, context):
            return [json.dumps(self.describe()).encode()]
        timer, num_loads = StageTimer(), self.model.num_loads
        with self.model.kept_as_it_is(), self._threads.computing():
            rows = read_rows(data, context)
            with timer.stage("decode"):
                self._decoders.run(self._decode, rows)
            self._run([row for row in rows if row.error is None], timer)
            with timer.stage("encode"):
                bodies = self._replies.write(rows, context, self.model.weights_description(), timer.seconds)
        self._target.took(rows, timer, context, has_loaded=self.model.num_loads != num_loads)
        self._count(rows, timer)
        return bodies

    def preprocess_item(self, body: bytes | bytearray, headers: Mapping[str, str]) -> decode.Decoded | Any:
        """One request body to one tensor or a list of tensors, without a batch dimension.

        Args:
            body: the raw bytes.
            headers: of the request, names in lower case.

        Raises:
            RowError: (or ValueError, answered as 400) where the body cannot be read.
        """
        content_type = headers.get("content-type", "").lower()
        if self._texts is not None and (read := self._texts.read(body, content_type)) is not None:
            return read
        return decode.decode(body, content_type, self.config)

    def inference(self, batch: Any, /) -> Any:
        """One forward of a micro-batch: the place for what is done to whole batches, before or after the model.

        Called within everything that makes a batch safe: where it fails, or memory is short, it is called again with
        fewer items, until only the item that it fails for fails. It may be called any number of times, with any number
        of items.

        Args:
            batch: on the CPU: float32 [N, …]; a dict of [N, …] by the names of the model's inputs; or a list of N.

        Returns:
            N answers, in order: [N, …], a dict or tuple of such, or a list of N of anything.
        """
        return self.model.forward(batch)

    def postprocess_item(self, output: Any) -> Any:
        """One item's output to what stands in its answer's "result"; tensors and NumPy arrays are written as lists."""
        return output

    def describe(self) -> Description:
        """What `GET /models/<name>?customized=true` and `smartbatch status` show of this worker."""
        calibrations = self.model.calibrations.measured if self.model.calibrations is not None else ()
        return {
            "loaded": self.model.is_loaded,
            "model": self.config.model,
            "weights": self.model.weights_description(),
            "device": str(self.model.device),
            "precision": self.model.precision,
            "compile": self.model.compiler,
            "measuring": self.model.is_measuring,
            "threads": torch.get_num_threads(),
            "micro_batch": {spelled(each.shape): each.best for each in calibrations},
            "micro_batch_ms_per_item": {spelled(each.shape): each.ms_per_item() for each in calibrations},
            "batch_limit": self._target.limit,
            "memory_ceilings": self._ceilings.as_dict(),
            "loads": self.model.num_loads,
            "load_seconds": round(self.model.load_seconds, 3),
            "pid": os.getpid(),
            "config": self.config.as_dict(),
            "example": self._told_example,
        }

    def _decode(self, row: Row) -> None:
        check_deadline(row)
        inflate(row)
        row.take(self.preprocess_item(row.body, row.headers), self.config)

    def _run(self, rows: Sequence[Row], timer: StageTimer) -> None:
        """Fill in every row's outputs; what fails, fails for its own row."""
        items = [
            Item(inputs, index, position, row.deadline)
            for index, row in enumerate(rows)
            for position, inputs in enumerate(row.items)
        ]
        if not items:
            return
        if not self.model.is_loaded:
            self._threads.share()  # what loading measures shall hold when all workers are busy
        try:
            with self.model.ready():
                if self.model.takes_list and not isinstance(self._batcher, ListBatcher):
                    self._batcher = ListBatcher(self._stacker)
                for micro_batch in self._batcher.plan(items, self._micro_batch_size):
                    self._run_micro_batch(micro_batch, rows, timer)
        except RowError as error:  # no weights, or no GPU: every row that needs them says so
            fail_unanswered(rows, error)
        except Exception as error:  # each row is answered and counted, and not failed by TorchServe as a batch
            logger.exception("a batch failed")
            fail_unanswered(rows, blame_server(error))
        else:
            return
        if recover.is_lost(self.device):
            wire.end_after_reply("its GPU is lost")

    def _run_micro_batch(self, micro_batch: MicroBatch, rows: Sequence[Row], timer: StageTimer) -> None:
        for item in micro_batch.items:
            rows[item.row].attempt(check_deadline, rows[item.row])
        live = [item for item in micro_batch.items if rows[item.row].error is None]
        if not live:
            return

        self._threads.adapt()

        def forward(items: Sequence[Item]) -> Any:
            with timer.stage("stack"):
                batch = self._batcher.stack(items)
            with timer.stage("forward"):
                return self._infer(batch)

        def run(items: Sequence[Item]) -> list[Any]:
            def run_again(count: int) -> Any:
                return forward([items[index % len(items)] for index in range(count)])

            answers = self._splitter.split(forward(items), len(items), run_again)
            timer.forward_sizes.append(len(items))
            for item in items:
                rows[item.row].ran_among(len(items))
            return self._batcher.cut_back(answers, items)

        answers = recover.run_isolated(run, live, micro_batch.shape, self._ceilings, self._count_split, self.device)
        for item, answer in zip(live, answers, strict=True):
            rows[item.row].put(item.position, answer, require_finite=self.config.nonfinite == "error")

    def _named_or_tensor(self, pin_memory: bool) -> Batcher:
        # What a user computes beside the model is promised float32 on the CPU.
        keeps_pixels = pin_memory and self.config.inputs is None and "inference" not in self._overridden
        self.model.takes_pixels = keeps_pixels
        self._stacker = Stacker(self.config.image_mean, self.config.image_std, pin_memory, keeps_pixels)
        if self.config.inputs is None:
            return TensorBatcher(self._stacker)
        return NamedBatcher(self.config, self._stacker, lambda: self.model.timings(), pin_memory)

    def _samples(self) -> Samples:
        """Of named inputs, batches to measure with."""
        return examples.samples(self.config, self._example_items())

    def _example_items(self) -> list[Any]:
        """The items of the archive's example; none where it has none, or one that is not read."""
        example = self._example()
        if example is None:
            return []
        row = Row(example[0], {"content-type": example[1]})
        row.attempt(self._decode, row)
        if row.error is not None:
            logger.warning("the archive's example is not read, and nothing measured with it: %s", row.error.message)
        return list(row.items)

    @cached_property
    def _told_example(self) -> ExampleBody | None:
        """The example as `describe` tells it: read once, however often that is asked."""
        example = self._example()
        return None if example is None else example_of(*example)

    def _example(self) -> tuple[bytes, str] | None:
        """The body in the archive, and its content type."""
        if self.config.example is None:
            return None
        path = self.model_dir / self.config.example
        return path.read_bytes(), media_types.of_file(path.name)

    def _micro_batch_size(self, shape: ItemShape) -> int:
        return self._ceilings.limit(shape, self.model.micro_batch_size(shape))

    def _count(self, rows: Sequence[Row], timer: StageTimer) -> None:
        padding_ratio = self._batcher.padding_ratio()
        if padding_ratio is None and self.model.compiler == "cuda_graphs":
            padding_ratio = self.model.padding_ratio()
        num_items = sum(len(row.items) for row in rows)
        self.telemetry.count_batch([row.status for row in rows], num_items, timer, padding_ratio)
        if self._traces is not None:
            self._traces.record(rows, timer)

    def _count_split(self, reason: str) -> None:
        self.telemetry.count(names.SPLITS, reason=reason)

    def _loaded(self, seconds: float) -> None:
        self.telemetry.count(names.MODEL_LOADS)
        self.telemetry.gauge(names.MODEL_LOAD_SECONDS, seconds, per_worker=True)
        self.telemetry.gauge(names.MODEL_LOADED, 1, per_worker=True)

    def _unloaded(self) -> None:
        self.telemetry.gauge(names.MODEL_LOADED, 0, per_worker=True)
        self.telemetry.gauge(names.MODEL_MEASURING, 0, per_worker=True)

    @cached_property
    def _overridden(self) -> set[str]:
        """What a subclass has of its own."""
        hooks = ("preprocess_item", "inference", "postprocess_item")
        return {name for name in hooks if getattr(type(self), name) is not getattr(SmartBatchHandler, name)}


def _take_over_worker() -> Callable[[str], None] | None:
    """Take over how requests are read and what is printed, where TorchServe runs this handler.

    Returns:
        What writes metric lines; None in a test or a bench, which have neither a connection nor a frontend that reads.
    """
    protocol = sys.modules.get("ts.protocol.otf_message_handler")
    if protocol is None or not getattr(sys.modules["__main__"], "__file__", "").endswith("model_service_worker.py"):
        return None
    wire.install(protocol)
    return worker_output.guard()


def _pick_device(wanted: str, gpu_id: int | None) -> torch.device:
    if wanted != "auto":
        return torch.device(wanted)
    has_gpu = gpu_id is not None and torch.cuda.is_available()
    return torch.device(f"cuda:{gpu_id}" if has_gpu else "cpu")


def _worker_name(argv: Sequence[str]) -> str:
    """W-9000 and so on, as TorchServe's log calls the worker: the end of its socket's name, or its port."""
    for flag in ("--sock-name", "--port"):
        if flag in argv[:-1]:
            return "W-" + argv[argv.index(flag) + 1].rsplit(".", 1)[-1]
    return f"W-{os.getpid()}"
