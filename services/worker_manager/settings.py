"""What the worker manager is told by its environment."""

import os
from pathlib import Path

from pydantic import Field, PositiveFloat, PositiveInt

from contracts.worker import RuntimeChoice
from services.kit.settings import ProcessSettings

_PASSED_ON = (
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
)


def _host_environment() -> dict[str, str]:
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ}


class ManagerSettings(ProcessSettings):
    """Settings of one node's worker manager."""

    runtime: RuntimeChoice = "auto"
    """What `auto` workers get here; `auto` again: docker where an engine answers, else processes."""
    max_workers: PositiveInt = 16
    """Workers at once on this node; more are queued."""
    base_image: str = "python:3.12-slim"
    """What worker images are built on."""
    node_image: str = "node:22-slim"
    """Where npm agents are installed before they are copied into a worker image."""
    data: tuple[Path, ...] = ()
    """Directories with `agents/*.toml` and `capabilities/*.toml` of one's own."""
    boot_timeout: PositiveFloat = 60
    """Seconds from a unit's start to the wrapper's `ready`."""
    silence: PositiveFloat = 45
    """Seconds without a heartbeat, while the bus is up, after which a wrapper counts as hung."""
    deadline_grace: PositiveFloat = 15
    """Seconds past a task's deadline, or past a cancel, that its wrapper has for ending it itself."""
    stop_grace: PositiveFloat = 10
    """Seconds that a unit has to end by itself when it is stopped."""
    bus_grace: PositiveFloat = 120
    """Seconds without a bus after which an idle wrapper ends by itself."""
    max_restarts: PositiveInt = 3
    """Units of one worker that may end in a row, no task started in between, before it is given up."""
    host_path: str = Field(default_factory=lambda: os.environ.get("PATH", os.defpath))
    """Where workers that are plain processes look for their agent."""
    host_environment: dict[str, str] = Field(default_factory=_host_environment)
    """What workers that are plain processes get of this host's environment: locale and certificates."""
    tick: PositiveFloat = 5
    """Seconds between two looks at everything, behind all hints."""
