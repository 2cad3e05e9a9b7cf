"""The `smartbatch` command. Each subcommand imports what it needs when it runs, so that all of them start fast."""

from __future__ import annotations

import importlib
import json
import locale
import sys
from collections.abc import Iterable, MutableMapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from smartbatch.errors import DeadlineError, SmartBatchError, UsageError

# Subcommands whose modules are imported only when they are wanted: name -> module with a function of that name.
_ELSEWHERE = {
    "serve": "smartbatch.commands.serve",
    "archive": "smartbatch.commands.archive",
    "retune": "smartbatch.commands.retune",
    "tune": "smartbatch.commands.tune",
}
# Further subcommands: a module with a typer app called `app`.
_APPS = ("loadtest.cli",)


class _LazyGroup(TyperGroup):
    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands:
            _add_elsewhere(self.commands, {cmd_name} & _ELSEWHERE.keys())
        if cmd_name not in self.commands:
            _add_apps(self.commands)
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: Any) -> list[str]:
        _add_elsewhere(self.commands, _ELSEWHERE.keys())
        _add_apps(self.commands)
        return sorted(super().list_commands(ctx))


def _add_elsewhere(commands: MutableMapping[str, Any], names: Iterable[str]) -> None:
    for name in names:
        alone = typer.Typer(add_completion=False)
        alone.command(name)(getattr(importlib.import_module(_ELSEWHERE[name]), name))
        commands[name] = typer.main.get_command(alone)


def _add_apps(commands: MutableMapping[str, Any]) -> None:
    for name in _APPS:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as e:
            if e.name not in (name, name.partition(".")[0]):
                raise
            continue  # an installation without the load tests
        found = typer.main.get_command(module.app)
        commands.update(getattr(found, "commands", {found.name: found}))


app = typer.Typer(
    cls=_LazyGroup,
    name="smartbatch",
    help="Serve PyTorch models on TorchServe with dynamic batching.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
token_app = typer.Typer(help="Show or renew the access tokens of a server.", no_args_is_help=True)
app.add_typer(token_app, name="token")

RunDir = Annotated[Path | None, typer.Option("--run-dir", help="The server's run folder.", envvar="SMARTBATCH_RUN_DIR")]
Port = Annotated[
    int | None, typer.Option("--inference-port", help="Which server, by its inference port.", min=1, max=65534)
]
ManagementUrl = Annotated[
    str | None, typer.Option("--management-url", help="A TorchServe not started from here.", show_default=False)
]
ModelStore = Annotated[
    Path | None, typer.Option(help="That server's model store, as seen from here.", show_default=False)
]
DrainTimeout = Annotated[float, typer.Option(help="Seconds for the last answers of workers taken away.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def stop(
    run_dir: RunDir = None,
    inference_port: Port = None,
    grace: Annotated[
        float, typer.Option(help="Seconds accepted requests may take to be answered; 0: end at once.", min=0)
    ] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Answer what was accepted, refuse what comes after, stop; returns when the processes are gone."""
    from smartbatch.server.stopping.stop import stop_server

    report = stop_server(run_dir, inference_port, grace)
    _print(report.as_dict(), as_json, report.text())
    if grace > 0 and not report.complete:
        raise typer.Exit(DeadlineError.exit_code)


@app.command()
def status(
    run_dir: RunDir = None,
    inference_port: Port = None,
    management_url: ManagementUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show processes, models, versions, workers, queues, and what each worker says about itself."""
    from smartbatch.remote.endpoints import find_endpoints
    from smartbatch.remote.status import collect_status

    found = collect_status(find_endpoints(run_dir, inference_port, management_url=management_url))
    if as_json:
        _print(found, as_json)
    else:
        from smartbatch.remote.status_table import show_status

        show_status(found)


@app.command()
def register(
    archive: Annotated[str, typer.Argument(help="Archive or folder in the server's model store.")],
    name: Annotated[str | None, typer.Option(help="Serve it under this name; default: the archive's own.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Most requests in a batch.", show_default="32")] = None,
    max_delay_ms: Annotated[float | None, typer.Option(help="Longest wait for a batch.", show_default="10")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Worker processes.", show_default="per GPU, or core up to 4")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds until the workers must be READY.")] = 300.0,
    run_dir: RunDir = None,
    inference_port: Port = None,
    management_url: ManagementUrl = None,
    model_store: ModelStore = None,
    as_json: AsJson = False,
) -> None:
    """Register a model and wait until its workers are READY. Waits for a retune to end first."""
    from smartbatch.remote.endpoints import find_endpoints
    from smartbatch.retune.model_lock import changing_models
    from smartbatch.retune.register import register_version
    from smartbatch.server.batching import resolve_batching

    batching, notes = resolve_batching(batch_size, max_delay_ms, workers)
    _note(notes)
    endpoints = find_endpoints(run_dir, inference_port, management_url=management_url)
    with endpoints.management() as client:
        alone = changing_models(endpoints, model_store, timeout, lambda line: _note([line]))
        ready = register_version(client, archive, name, batching, timeout, alone)
        default = client.describe(ready.model_name).version
    model = ready.model_name
    if default != ready.version:
        _note([f"requests that name no version go to {model} {default}"])
    fields = {
        "model": model,
        "version": ready.version,
        "batch_size": ready.batch_size,
        "max_batch_delay_ms": ready.max_batch_delay_ms,
        "workers": len(ready.workers),
    }
    _print(fields, as_json, f"{model} {ready.version} is ready on {len(ready.workers)} worker(s)")


@app.command()
def scale(
    model: str,
    workers: Annotated[int, typer.Option(help="Worker processes to run; 0: none, requests get 503.", min=0)],
    version: Annotated[str | None, typer.Option(help="Default: the default version.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds until the workers must be READY.")] = 300.0,
    drain_timeout: DrainTimeout = 120.0,
    run_dir: RunDir = None,
    inference_port: Port = None,
    management_url: ManagementUrl = None,
    model_store: ModelStore = None,
    as_json: AsJson = False,
) -> None:
    """Change the number of workers without losing a request; fewer are a retune, and have a version of their own."""
    from smartbatch.retune.scaling import scale as run

    target = _scale_target(model, version, timeout, drain_timeout, run_dir, inference_port, management_url, model_store)
    scaled = run(target, workers)
    fields = {"model": model, "version": scaled.version, "workers": len(scaled.workers)}
    _print(fields, as_json, f"{model} {scaled.version} runs on {len(scaled.workers)} worker(s)")


@app.command()
def unregister(
    model: str,
    version: Annotated[str | None, typer.Option(help="Default: all versions.")] = None,
    drain_timeout: DrainTimeout = 120.0,
    run_dir: RunDir = None,
    inference_port: Port = None,
    management_url: ManagementUrl = None,
    model_store: ModelStore = None,
    as_json: AsJson = False,
) -> None:
    """Remove a model once everything accepted for it is answered; newcomers get 503 meanwhile, 404 afterwards."""
    from smartbatch.retune.scaling import unregister as run

    removed = run(
        _scale_target(model, version, 300.0, drain_timeout, run_dir, inference_port, management_url, model_store)
    )
    _print({"model": model, "versions": removed}, as_json, f"{model} {', '.join(removed)} is gone")


def _scale_target(
    model: str,
    version: str | None,
    ready_timeout_s: float,
    drain_timeout_s: float,
    run_dir: Path | None,
    inference_port: int | None,
    management_url: str | None,
    model_store: Path | None,
) -> Any:
    from smartbatch.remote.endpoints import find_endpoints
    from smartbatch.retune.canary import Canary
    from smartbatch.retune.scaling import ScaleTarget

    endpoints = find_endpoints(run_dir, inference_port, management_url=management_url)
    if model_store is None and endpoints.state is not None:
        model_store = Path(endpoints.state.model_store)
    return ScaleTarget(
        endpoints=endpoints,
        model=model,
        version=version,
        model_store=model_store,
        canary=Canary(
            inference_url=None if endpoints.state is None else endpoints.inference_url,
            token=endpoints.inference_token(),
            verify=endpoints.verify,
            timeout_s=ready_timeout_s,
        ),
        ready_timeout_s=ready_timeout_s,
        drain_timeout_s=drain_timeout_s,
        say=lambda line: typer.echo(line, err=True),
    )


@app.command()
def predict(
    file: Annotated[str, typer.Argument(help="Image, .npy, .json, ... by extension; - reads stdin.")],
    model: Annotated[str, typer.Option(help="Model to ask.")] = "resnet18",
    url: Annotated[str | None, typer.Option(help="Server's inference address.", show_default=False)] = None,
    deadline: Annotated[float, typer.Option(help="Seconds until the answer, retries included.")] = 60.0,
    content_type: Annotated[str | None, typer.Option(help="Overrides the extension's.")] = None,
    output: Annotated[str | None, typer.Option(help="raw or topk.")] = None,
    run_dir: RunDir = None,
    inference_port: Port = None,
    as_json: AsJson = False,
) -> None:
    """Send one file to a model and print the answer. With --json: the answer with batch size, attempts and seconds."""
    from smartbatch.client import Client, encode_body
    from smartbatch.remote.endpoints import find_endpoints

    if file == "-":
        body, kind = sys.stdin.buffer.read(), "application/octet-stream"
    else:
        path = Path(file)
        if not path.is_file():
            raise UsageError(f"FILE must be a file or -, got {file!r}")
        body, kind = encode_body(path)
    headers = {"Content-Type": content_type or kind}
    if output is not None:
        headers["X-SmartBatch-Output"] = output
    endpoints = find_endpoints(run_dir, inference_port, inference_url=url)
    with Client(endpoints.inference_url, model, endpoints.inference_token(), verify=endpoints.verify) as client:
        answer = client.predict(body, deadline_s=deadline, headers=headers)
    if as_json:
        fields = {"batch_size": answer.batch_size, "attempts": answer.attempts, "seconds": answer.seconds}
        _print({"answer": answer.json(), **fields}, as_json)
    else:
        sys.stdout.buffer.write(answer.content.rstrip(b"\n") + b"\n")


@app.command()
def metrics(
    model: Annotated[str | None, typer.Option(help="One model; default: all together.")] = None,
    url: Annotated[str | None, typer.Option(help="Metrics address.", show_default=False)] = None,
    run_dir: RunDir = None,
    inference_port: Port = None,
    as_json: AsJson = False,
) -> None:
    """Requests, batches, average batch size and latency quantiles (seconds), since the server started."""
    from smartbatch.remote.endpoints import find_endpoints
    from smartbatch.remote.scrape import scrape, summary

    endpoints = find_endpoints(run_dir, inference_port, metrics_url=url)
    found = summary(scrape(endpoints.metrics_url, verify=endpoints.verify), model)
    lines = [f"{key:<15} {_figure(value)}" for key, value in found.items()]
    _print(dict(found), as_json, "\n".join(lines))


@app.command()
def env(
    shell: Annotated[bool, typer.Option(help="Print export lines; --no-shell prints JSON.")] = True,
) -> None:
    """Print what plain `torchserve` needs: eval "$(smartbatch env)"."""
    import os
    import shlex

    from smartbatch.server.java import java_home

    home = java_home()
    path = os.pathsep.join([str(home / "bin"), str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if shell:
        typer.echo(f"export JAVA_HOME={shlex.quote(str(home))}\nexport PATH={shlex.quote(path)}")
    else:
        _print({"JAVA_HOME": str(home), "PATH": path}, True)


@token_app.command("show")
def token_show(
    kind: Annotated[str, typer.Option("--type", help="inference, management or api.")] = "inference",
    run_dir: RunDir = None,
    inference_port: Port = None,
    as_json: AsJson = False,
) -> None:
    """Print one token, renewed first if it has expired; --json prints all of them with their expiry."""
    from dataclasses import asdict

    from smartbatch.remote.endpoints import find_state
    from smartbatch.remote.tokens import check_kind, living_tokens

    check_kind(kind, ("inference", "management", "api"))
    tokens = asdict(living_tokens(find_state(run_dir, inference_port)))
    _print(tokens, as_json, tokens[kind])


@token_app.command("rotate")
def token_rotate(
    kind: Annotated[str, typer.Option("--type", help="inference, management or both.")] = "both",
    run_dir: RunDir = None,
    inference_port: Port = None,
    as_json: AsJson = False,
) -> None:
    """Renew a token; the old one is refused at once."""
    from dataclasses import asdict

    from smartbatch.remote.endpoints import find_state
    from smartbatch.remote.tokens import check_kind, rotate_tokens

    check_kind(kind, ("inference", "management", "both"))
    kinds = ("inference", "management") if kind == "both" else (kind,)
    tokens = asdict(rotate_tokens(find_state(run_dir, inference_port), kinds))
    _print(tokens, as_json, "\n".join(tokens[k] for k in kinds))


def main() -> None:
    """Run the command.

    Errors made on purpose, and what the operating system refuses, become one line on stderr and their exit code.
    """
    try:
        app()
    except SmartBatchError as e:
        typer.secho(f"smartbatch: {e}", fg="red", err=True)
        sys.exit(e.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as e:  # a folder that is read-only, a disk that is full, a file of somebody else's
        _fail(": ".join(str(part) for part in (e.filename, e.strerror or e) if part is not None))
    except UnicodeError as e:  # a path or file in another encoding than this locale's
        _fail(f"text in another encoding than expected ({e}); the locale's is {locale.nl_langinfo(locale.CODESET)}")


def _fail(reason: str) -> NoReturn:
    typer.secho(f"smartbatch: {reason}", fg="red", err=True)
    sys.exit(UsageError.exit_code)


def _figure(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _note(lines: list[str]) -> None:
    for line in lines:
        typer.secho(f"note: {line}", fg="yellow", err=True)


def _print(fields: Any, as_json: bool, text: str = "") -> None:
    typer.echo(json.dumps(fields, indent=2) if as_json else text)


if __name__ == "__main__":
    main()
