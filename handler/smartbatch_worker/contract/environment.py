"""Every environment variable that is not a key of the handler's configuration."""

from __future__ import annotations

PREFIX = "SMARTBATCH_"
"""With a key's name behind it, in capitals, it beats that key of model-config.yaml."""

RUN_DIR = "SMARTBATCH_RUN_DIR"
"""For the command: the server's folder."""
TOKEN = "SMARTBATCH_TOKEN"
"""For the command and the load tests: TorchServe's token."""
CA_CERT = "SMARTBATCH_CA_CERT"
"""For the command: what to check a server's certificate against."""
DRAIN_FILE = "SMARTBATCH_DRAIN_FILE"
"""Given to workers by the 0.1 command; it means nothing any more."""
ACCESS_LOG = "SMARTBATCH_ACCESS_LOG"
"""For a worker: the frontend's access log, where it lies elsewhere than TorchServe's settings say."""
FRONTEND = "SMARTBATCH_FRONTEND"
"""For the frontend's jar: "stock" leaves TorchServe as it came, "mended" (the default) does not."""

RESERVED = frozenset({RUN_DIR, TOKEN, CA_CERT, DRAIN_FILE, ACCESS_LOG, FRONTEND})
