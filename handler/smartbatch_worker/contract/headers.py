"""Every header that a client and a worker have agreed on."""

from __future__ import annotations

OUTPUT = "X-SmartBatch-Output"
"""Of a request: what of the model's answer is wanted, one of `config.OUTPUTS`."""
START = "X-Request-Start"
"""Of a request: when it was sent, unix seconds; `t=` may stand before, as proxies write it."""
DEADLINE_MS = "X-Request-Deadline-Ms"
"""Of a request: its budget, counted from START."""
BATCH_SIZE = "X-SmartBatch-Batch-Size"
"""Of an answer: requests that TorchServe handed over together."""
FORWARD_SIZE = "X-SmartBatch-Forward-Size"
"""Of an answer: items that shared its forward, the most of them where its own ran in several; 0 where none ran."""
WEIGHTS = "X-SmartBatch-Weights"
"""Of an answer: where the weights are from."""
