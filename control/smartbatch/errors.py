"""What can go wrong in the control plane; each error carries the exit code the command ends with.

SmartBatchError                 1  anything else that failed
├── RowsFailedError             1  some rows of many
├── UsageError                  2  a flag, variable or file the user gave is wrong
├── NotRunningError             3  no server answers there
├── ModelNotReadyError          4  model unknown, or its workers are not READY
│   └── WorkerStartError        4  they die while they start
├── DeadlineError               5  the time the caller allowed is over
├── RequestRefusedError         6  the server answered a request with an error status
├── StartupError                7  TorchServe did not start
└── InterruptedRunError       130  Ctrl-C; the same command goes on
"""

from __future__ import annotations

EXIT_OK = 0


class SmartBatchError(Exception):
    """Base of all errors the control plane raises on purpose; its text is for users."""

    exit_code = 1


class UsageError(SmartBatchError, ValueError):
    """A value the user gave breaks a rule; the message states the rule and the value."""

    exit_code = 2


class NotRunningError(SmartBatchError):
    """No server answers at the address, or the state file names none that lives."""

    exit_code = 3


class ModelNotReadyError(SmartBatchError):
    """The model is not registered, or its workers are not READY."""

    exit_code = 4


class WorkerStartError(ModelNotReadyError):
    """A worker died again and again while it started; the text has the last error it wrote."""


class DeadlineError(SmartBatchError):
    """The time the caller allowed is over."""

    exit_code = 5


class RequestRefusedError(SmartBatchError):
    """The server answered with an error status.

    Attributes:
        status: the HTTP status code.
        code: the machine-readable reason in the answer, or "" where it had none.
        message: what the answer said.
    """

    exit_code = 6

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{status} {code}: {message}" if code else f"{status}: {message}")
        self.status = status
        self.code = code
        self.message = message


class RowsFailedError(SmartBatchError):
    """Some of many rows failed; the others have their answers."""


class InterruptedRunError(SmartBatchError):
    """The user ended a long piece of work, which can go on from where it was."""

    exit_code = 130


class StartupError(SmartBatchError):
    """TorchServe's frontend did not come up."""

    exit_code = 7
