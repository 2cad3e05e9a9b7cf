"""`smartbatch token show | rotate`: the access tokens of a server that asks for them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from smartbatch.commands.options import AsJson, InferencePort, RunDir
from smartbatch.commands.output import answer

token = typer.Typer(add_completion=False, help="Show or renew the access tokens of a server.", no_args_is_help=True)


@token.command()
def show(
    kind: Annotated[str, typer.Option("--type", help="inference, management or api.")] = "inference",
    run_dir: RunDir = None,
    inference_port: InferencePort = None,
    as_json: AsJson = False,
) -> None:
    """Print one token, renewed first if it has expired; --json prints all of them with their expiry."""
    from smartbatch.remote.endpoints import find_state
    from smartbatch.remote.tokens import check_kind, living_tokens

    check_kind(kind, ("inference", "management", "api"))
    tokens = asdict(living_tokens(find_state(run_dir, inference_port)))
    answer(tokens, as_json, tokens[kind])


@token.command()
def rotate(
    kind: Annotated[str, typer.Option("--type", help="inference, management or both.")] = "both",
    run_dir: RunDir = None,
    inference_port: InferencePort = None,
    as_json: AsJson = False,
) -> None:
    """Renew a token; the old one is refused at once."""
    from smartbatch.remote.endpoints import find_state
    from smartbatch.remote.tokens import check_kind, rotate_tokens

    check_kind(kind, ("inference", "management", "both"))
    kinds = ("inference", "management") if kind == "both" else (kind,)
    tokens = asdict(rotate_tokens(find_state(run_dir, inference_port), kinds))
    answer(tokens, as_json, "\n".join(tokens[k] for k in kinds))
