"""`smartbatch status`: what a server is doing, as a table or as JSON."""

from __future__ import annotations

from smartbatch.commands.options import AsJson, InferencePort, ManagementUrl, RunDir, server_asked
from smartbatch.commands.output import answer


def status(
    run_dir: RunDir = None,
    inference_port: InferencePort = None,
    management_url: ManagementUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show processes, models, versions, workers, queues, and what each worker says about itself."""
    from smartbatch.remote.status import collect_status

    found = collect_status(server_asked(run_dir, inference_port, management_url=management_url))
    if as_json:
        answer(found, as_json, "")
    else:
        from smartbatch.remote.status_table import show_status

        show_status(found)
