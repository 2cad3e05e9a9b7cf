"""Python's HTTP server, for tests in which many clients connect at once."""

from __future__ import annotations

from http.server import ThreadingHTTPServer


class ManyConnections(ThreadingHTTPServer):
    """Of the five connections that socketserver lets wait, a busy machine turns some away."""

    request_queue_size = 64
