"""The config.properties of one server: the project's own, with this server's addresses, ports and paths."""

from __future__ import annotations

from smartbatch.server.properties import read_properties
from smartbatch.server.settings import ServerSettings

_LOG4J_FLAG = "-Dlog4j.configurationFile="


def torchserve_properties(
    settings: ServerSettings, grpc_ports: tuple[int, int], worker_port: int
) -> tuple[dict[str, str], list[str]]:
    """The base config with this server's addresses, and its JVM arguments, all paths absolute."""
    properties = read_properties(settings.base_config)
    base_dir = settings.base_config.absolute().parent
    vm_args = []
    for arg in properties.pop("vmargs", "").split():
        path = arg.removeprefix(_LOG4J_FLAG)
        vm_args.append(f"{_LOG4J_FLAG}{base_dir / path}" if path != arg else arg)
    if "metrics_config" in properties:
        properties["metrics_config"] = str(base_dir / properties["metrics_config"])
    if "plugins_path" in properties:
        folders = properties["plugins_path"].split(":")
        properties["plugins_path"] = ":".join(str(base_dir / folder) for folder in folders)
    properties |= {
        "inference_address": settings.address(settings.host, settings.inference_port, inference=True),
        "management_address": settings.address(settings.management_host, settings.management_port),
        "metrics_address": settings.address(settings.metrics_host, settings.metrics_port),
        "grpc_inference_port": str(grpc_ports[0]),
        "grpc_management_port": str(grpc_ports[1]),
        "initial_worker_port": str(worker_port),
        "disable_token_authorization": str(not settings.token_auth).lower(),
        "token_expiration_min": str(settings.token_expiration_min),
    }
    if settings.tls_cert is not None and settings.tls_key is not None:
        properties["certificate_file"] = str(settings.tls_cert.absolute())
        properties["private_key_file"] = str(settings.tls_key.absolute())
    return properties | dict(settings.properties), [*vm_args, *settings.vm_args]
