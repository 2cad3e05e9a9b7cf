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
FORK_SERVER = "SMARTBATCH_FORK_SERVER"
"""For `smartbatch serve`: "off" starts each worker anew instead of forking it where PyTorch is loaded already; a path
names the socket of a fork server that runs, for all servers and archive checks that are told of it."""
FRONTEND_PID = "SMARTBATCH_FRONTEND_PID"
"""For a worker that was forked, from what forked it: the process of the frontend, which is not its parent."""
FORKED_PYTHON = "SMARTBATCH_FORKED_PYTHON"
"""For a worker that was forked, from what forked it: what to type for a Python that has PyTorch loaded already."""
FRONTEND = "SMARTBATCH_FRONTEND"
"""For the frontend's jar: "stock" leaves TorchServe as it came, "mended" (the default) does not."""
CACHE_DIR = "SMARTBATCH_CACHE_DIR"
"""For a worker: the folder that outlives the server, for what it builds and measures."""
MAX_BYTES_IN_FLIGHT = "SMARTBATCH_MAX_BYTES_IN_FLIGHT"
"""For the frontend's jar: bytes of all request bodies together, above which newcomers get 503."""
CLIENT_TIMEOUT_S = "SMARTBATCH_CLIENT_TIMEOUT_S"
"""For the frontend's jar: how long a client may be silent in the middle of what it sends, or reads."""
FRONTEND_MODES = ("mended", "stock")
UI = "SMARTBATCH_UI"
"""For the frontend's jar: "off" takes away the page at /ui/ on the inference port, "on" (the default) does not."""
UI_MODES = ("on", "off")
MANAGEMENT_HOSTS = "SMARTBATCH_MANAGEMENT_HOSTS"
"""For the frontend's jar: names by which clients may call the management port, beside loopback's; commas between."""
MANAGEMENT_ORIGINS = "SMARTBATCH_MANAGEMENT_ORIGINS"
"""For the frontend's jar: origins of web pages that may manage the server, as https://console.example."""
MANAGEMENT_UIDS = "SMARTBATCH_MANAGEMENT_UIDS"
"""For the frontend's jar: numbers of local users that may manage the server, beside its own and root."""

TRACE_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""OpenTelemetry's own, for a worker: where its collector is; with one of them set, requests are traced."""

RESERVED = frozenset(
    {
        RUN_DIR,
        TOKEN,
        CA_CERT,
        FORK_SERVER,
        FRONTEND,
        FRONTEND_PID,
        FORKED_PYTHON,
        CACHE_DIR,
        MAX_BYTES_IN_FLIGHT,
        CLIENT_TIMEOUT_S,
        UI,
        MANAGEMENT_HOSTS,
        MANAGEMENT_ORIGINS,
        MANAGEMENT_UIDS,
    }
)

WEIGHTS_PREFIX = "smartbatch-weights-"
"""Of the file that the workers of a server map a model's weights from."""

MEASURED_SINCE_FILE = "smartbatch-measured-since"
"""In an archive's folder: what was measured before it was written is measured again."""
