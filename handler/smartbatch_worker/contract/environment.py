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
"""For a worker: the file that says from when on newcomers are refused, monotonic seconds."""
ACCESS_LOG = "SMARTBATCH_ACCESS_LOG"
"""For a worker: the frontend's access log, where it lies elsewhere than TorchServe's settings say."""
FRONTEND = "SMARTBATCH_FRONTEND"
"""For the frontend's jar: "stock" leaves TorchServe as it came, "mended" (the default) does not."""
FRONTEND_MODES = ("mended", "stock")
MANAGEMENT_HOSTS = "SMARTBATCH_MANAGEMENT_HOSTS"
"""For the frontend's jar: names by which clients may call the management port, beside loopback's; commas between."""
MANAGEMENT_ORIGINS = "SMARTBATCH_MANAGEMENT_ORIGINS"
"""For the frontend's jar: origins of web pages that may manage the server, as https://console.example."""
MANAGEMENT_UIDS = "SMARTBATCH_MANAGEMENT_UIDS"
"""For the frontend's jar: numbers of local users that may manage the server, beside its own and root."""

RESERVED = frozenset(
    {
        RUN_DIR,
        TOKEN,
        CA_CERT,
        DRAIN_FILE,
        ACCESS_LOG,
        FRONTEND,
        MANAGEMENT_HOSTS,
        MANAGEMENT_ORIGINS,
        MANAGEMENT_UIDS,
    }
)
