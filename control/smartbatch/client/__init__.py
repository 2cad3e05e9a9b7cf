"""Call a model: any body, typed answers, connections reused, retries within the caller's deadline, several servers.

with Client("http://127.0.0.1:8080", "resnet18") as client:
    print(client.predict(Path("cat.jpg"), deadline_s=2).classes())

`Client` is for threads, `AsyncClient` for tasks; they take the same and answer the same. What a call sends and what
becomes of each attempt is in `calls`, which server is asked in `targets`, both without any I/O; HTTP is in `exchange`.
"""

from __future__ import annotations

from smartbatch.client.asynchronous import AsyncClient
from smartbatch.client.bodies import encode_body
from smartbatch.client.prediction import ClassScore, Prediction
from smartbatch.client.synchronous import Client
from smartbatch.errors import DeadlineError, ModelNotReadyError, NotRunningError, RequestRefusedError

__all__ = [
    "AsyncClient",
    "ClassScore",
    "Client",
    "DeadlineError",
    "ModelNotReadyError",
    "NotRunningError",
    "Prediction",
    "RequestRefusedError",
    "encode_body",
]
