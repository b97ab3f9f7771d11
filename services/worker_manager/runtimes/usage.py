"""What a container has used, as its engine measures it."""

from collections.abc import Mapping
from typing import Any

import docker

from contracts.evidence import Resources
from services.worker_manager.runtimes.engine import absent_is_fine


def resources_of(
    client: docker.DockerClient, container: Mapping[str, Any] | None
) -> Resources | None:
    """One sample of a container (as inspected) that runs; blocks. None of one that does not."""
    if container is None or container["State"]["Status"] != "running":
        return None
    with absent_is_fine():
        return _resources(client.api.stats(container["Id"], stream=False, one_shot=True))
    return None


def _resources(sample: Mapping[str, Any]) -> Resources | None:
    cpu = int(sample.get("cpu_stats", {}).get("cpu_usage", {}).get("total_usage", 0))
    memory = sample.get("memory_stats", {})
    peak = memory.get("max_usage", memory.get("usage"))  # newer kernels tell no peak
    if not cpu and peak is None:
        return None
    return Resources(cpu_seconds=round(cpu / 1e9, 3), memory_peak_bytes=peak)
