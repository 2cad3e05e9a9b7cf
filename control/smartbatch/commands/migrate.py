"""`smartbatch migrate`: what becomes of a handler that was written for TorchServe."""

from __future__ import annotations

from typing import Annotated

import typer

from smartbatch.commands.options import AsJson
from smartbatch.commands.output import answer


def migrate(
    handler: Annotated[str, typer.Argument(help="Python file, or one of TorchServe's own, as image_classifier.")],
    as_json: AsJson = False,
) -> None:
    """Say what each part of a TorchServe handler becomes here, running nothing of it. Exit code 1: some need a hand."""
    from smartbatch.migrate.advice import advise
    from smartbatch.migrate.source import find_handler, read_handler

    advice = advise(read_handler(find_handler(handler)))
    answer(advice.as_dict(), as_json, advice.text())
    if advice.num_by_hand:
        raise typer.Exit(1)
