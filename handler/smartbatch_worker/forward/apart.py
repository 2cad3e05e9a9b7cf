"""The process that measures a model while a worker answers with it: it loads it as a worker does, and ends.

`later` starts it, gives it an `Order` by stdin, and logs what it prints. What it measures lies in the cache afterwards.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
import threading
from functools import partial

import torch

from smartbatch_worker.contract.shapes import Sample, Samples
from smartbatch_worker.forward.batches import first_items
from smartbatch_worker.forward.later import Order, give_way
from smartbatch_worker.forward.managed import ManagedModel
from smartbatch_worker.process import heap


def main() -> None:
    """Measure what stdin asks for; exit 0 where the model could be loaded.

    Raises:
        ModelUnavailable: it could not.
    """
    give_way(os.getpid())
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
    order = pickle.load(sys.stdin.buffer)
    assert isinstance(order, Order)
    threading.Thread(target=_end_with_the_worker, daemon=True).start()
    heap.keep_large_blocks()
    torch.set_num_threads(order.num_threads)
    samples = [Sample(shape, partial(first_items, batch)) for shape, batch in order.samples]
    model = ManagedModel(
        order.config,
        order.model_dir,
        order.cache_dir,
        torch.device("cpu"),
        order.max_batch_size,
        samples=lambda: Samples(samples, order.compared),
    )
    model.measures_first = True
    with model.ready():
        pass


def _end_with_the_worker() -> None:
    os.read(sys.stdin.fileno(), 1)  # nothing comes: it ends with the worker
    os._exit(1)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # all is kept; taking the interpreter down ends it by SIGABRT where a library's threads still run
