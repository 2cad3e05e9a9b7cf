"""The archive check's look at the handler: it is started and asked as TorchServe's worker does it."""

from __future__ import annotations

import importlib
import inspect
import io
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from smartbatch_worker.contract import media_types
from smartbatch_worker.errors import RowError
from smartbatch_worker.flow.failures import Cause, cause_of
from smartbatch_worker.flow.rows import Row

from smartbatch.archive.context import Request, receive
from smartbatch.archive.settings import CheckError

_NEW_NAMES = {
    "preprocess": "preprocess_item(self, body, headers), which reads one request's body to a tensor",
    "inference": "the model's forward; what comes before and after it are preprocess_item and postprocess_item",
    "postprocess": "postprocess_item(self, output), which takes one item's output to what its answer holds",
}
"""The methods of TorchServe's BaseHandler, and what stands for each in a SmartBatchHandler."""


@dataclass(frozen=True, slots=True)
class Example:
    """A body to try."""

    body: bytes
    content_type: str
    name: str | None
    """As the user named the file; None for a generated body, which a handler of one's own may refuse."""

    @classmethod
    def generated(cls, shape: tuple[int, ...]) -> Example:
        """One item of `shape`, float32 between 0 and 1; a model of integer ids sees zeros."""
        stream = io.BytesIO()
        np.save(stream, np.random.default_rng(0).random(shape, dtype=np.float32), allow_pickle=False)
        return cls(stream.getvalue(), media_types.NPY, None)

    @classmethod
    def of_item(cls, item: Mapping[str, torch.Tensor]) -> Example:
        """One item of named inputs."""
        whole = {name: tensor.contiguous() for name, tensor in item.items()}
        return cls(safetensors.torch.save(whole), media_types.SAFETENSORS, None)

    def __str__(self) -> str:
        return (
            f"a generated {media_types.suffix_of(self.content_type)} body"
            if self.name is None
            else f"--example {self.name}"
        )


class StartedHandler:
    """A handler after its `initialize`.

    Args:
        entry_point: the handler's file in `folder`.
        folder: the staged archive, where messages say the file is.
        context: what it is given; the folder that it names as the archive's may be written to.

    Raises:
        CheckError: it cannot be imported, or it does not start.
    """

    def __init__(
        self,
        entry_point: str,
        folder: Path,
        context: Any,
    ) -> None:
        self._file = folder / entry_point
        entry = check_entry_point(entry_point, folder)
        self._context = context
        self.ours: Any = None
        """The handler where it is a SmartBatchHandler, else None."""
        try:
            instance: Any = entry() if inspect.isclass(entry) else None
            if instance is not None and _is_ours(type(instance)):
                self.ours = instance
            self._handle: Callable[..., Any] = entry if instance is None else instance.handle
            if instance is None:
                entry(None, self._context)  # how TorchServe starts a file with a function
            else:
                instance.initialize(self._context)
        except Exception as error:
            raise CheckError(f"{self._file}: initialize failed with {cause_of(error)}{_hint(entry)}") from error

    @property
    def reads_tensors(self) -> bool:
        """Whether requests are the model's input, not what a handler of the user's own makes that of."""
        return self.ours is not None and not any(_overrides(type(self.ours), m) for m in ("preprocess_item", "handle"))

    @property
    def answers_tensors(self) -> bool:
        """Whether answers are the model's output, not what a handler of the user's own makes of that."""
        return self.ours is not None and not any(_overrides(type(self.ours), m) for m in ("postprocess_item", "handle"))

    def items_of(self, example: Example) -> list[Any] | str:
        """What SmartBatchHandler's `preprocess_item` makes of the body: its tensors, or why it refuses a generated one.

        Raises:
            CheckError: it fails, gives no tensors, or refuses the user's own example.
        """
        row = Row(bytearray(example.body), {"content-type": example.content_type})
        try:
            row.take(self.ours.preprocess_item(row.body, row.headers), self.ours.config)
        except (RowError, ValueError) as error:
            status = error.status if isinstance(error, RowError) else 400
            if status >= 500 or example.name is not None:
                raise CheckError(f"{self._file}: {example} is answered {status}: {error}") from error
            return f"{status}: {error}"
        except Exception as error:
            hint = "; if it reads other bodies, give one (--example FILE), and raise ValueError for what cannot be read"
            raise CheckError(
                f"{self._file}: preprocess_item failed on {example} with {cause_of(error)}"
                f"{hint if example.name is None else ''}"
            ) from error
        return list(row.items)

    def ask(self, example: Example, count: int) -> None:
        """Send the body `count` times in one batch.

        Raises:
            CheckError: not every one of them is answered 200.
        """
        data = receive(self._context, [Request.of_body(example.body, example.content_type)] * count)
        logged = _Logged()
        logging.getLogger().addHandler(logged)
        try:
            replies = self._handle(data, self._context)
        except Exception as error:
            raise CheckError(f"{self._file}: handle failed on {example} with {cause_of(error)}") from error
        finally:
            logging.getLogger().removeHandler(logged)
        if not isinstance(replies, list) or len(replies) != count:
            given = f"a list of {len(replies)}" if isinstance(replies, list) else f"a {type(replies).__name__}"
            raise CheckError(f"{self._file}: handle must give a list of one reply a request; got {given} for {count}")
        for index, reply in enumerate(replies):
            status, _ = self._context.get_response_status(index)
            if status != 200:
                among = f"{count} at once of " if count > 1 else ""
                reasons = "".join(f" ({cause})" for cause in logged.causes[-1:])
                raise CheckError(f"{self._file}: {among}{example} is answered {status}: {_message_of(reply)}{reasons}")


class _Logged(logging.Handler):
    """Exceptions that a handler logs where the client is only told that the log says why."""

    def __init__(self) -> None:
        super().__init__()
        self.causes: list[Cause] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and isinstance(record.exc_info[1], Exception):
            self.causes.append(cause_of(record.exc_info[1]))


def check_entry_point(entry_point: str, folder: Path) -> Any:
    """Catch here what TorchServe would hide behind a misleading error when the worker starts.

    Returns:
        The function `handle` of the handler's file, or its one class.
    """
    name = Path(entry_point).stem
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise CheckError(f"{folder / entry_point}: import failed with {type(error).__name__}: {error}") from error
    if hasattr(module, "handle"):
        return module.handle
    classes = [
        value for value in vars(module).values() if inspect.isclass(value) and value.__module__ == module.__name__
    ]
    if len(classes) != 1:
        names = ", ".join(c.__name__ for c in classes) or "none"
        raise CheckError(
            f"{folder / entry_point}: TorchServe wants exactly one class in a handler's file; found {names}. "
            "Move helpers to a module of their own (--extra-files)"
        )
    for method in ("initialize", "handle"):
        if not callable(getattr(classes[0], method, None)):
            raise CheckError(
                f"{folder / entry_point}: {classes[0].__name__} has no {method}(); "
                "subclass smartbatch_handler.SmartBatchHandler"
            )
    if _is_ours(classes[0]):
        _refuse_old_names(classes[0], folder / entry_point)
    return classes[0]


def _refuse_old_names(handler: type, file: Path) -> None:
    """A method of an old name is never called, unless as a helper of a new one or of a handle() of one's own."""
    if _overrides(handler, "handle"):
        return
    for old, new in _NEW_NAMES.items():
        if hasattr(handler, old) and not _overrides(handler, f"{old}_item"):
            raise CheckError(
                f"{file}: {handler.__name__}.{old}() is never called; in a SmartBatchHandler that is {new}"
            )


def _is_ours(handler: type) -> bool:
    return issubclass(handler, importlib.import_module("smartbatch_handler").SmartBatchHandler)


def _overrides(handler: type, method: str) -> bool:
    base = importlib.import_module("smartbatch_handler").SmartBatchHandler
    return getattr(handler, method, None) is not getattr(base, method, None)


def _hint(entry: Any) -> str:
    bases = inspect.getmro(entry) if inspect.isclass(entry) else ()
    if any(base.__module__.startswith("ts.torch_handler") for base in bases):
        return (
            ". TorchServe's own initialize looks for a serialized file that the manifest names, and there is none: "
            "subclass smartbatch_handler.SmartBatchHandler, or load the model in an initialize of your own"
        )
    return ""


def _message_of(reply: Any) -> str:
    try:
        return str(json.loads(reply)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return str(reply)[:200]
