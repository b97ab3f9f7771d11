"""What the worker manager is told by its environment."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import (
    BaseModel,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

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


class Caps(BaseModel, frozen=True):
    """The most that one worker may ask for; a create that asks for more is refused."""

    memory_mb: PositiveInt | None = None
    """MiB of memory of one worker; a create above it is refused. Unset: no cap. The same on all nodes."""
    cpus: PositiveFloat | None = None
    """CPUs of one worker; likewise."""
    pids: PositiveInt | None = None
    """Processes of one worker; likewise."""
    output_mb: PositiveInt | None = None
    """MiB of output kept of one task; likewise."""


class WarmSettings(BaseModel, frozen=True):
    """Containers that are started, and paused, before there is a worker for them. Each serves one worker."""

    size: NonNegativeInt = 0
    """For each kind of worker that was made lately: agent, capabilities, limits and network; 0: none."""
    total: NonNegativeInt = 8
    """Of all kinds together; the kinds that were made last come first."""
    keep: PositiveFloat = 3600
    """Seconds from the last worker of a kind until none waits for another one."""


class CleaningSettings(BaseModel, frozen=True):
    """When a node removes what nothing needs any more, and what it keeps. Times in seconds."""

    every: PositiveFloat = 3600
    """Seconds between two cleanings of this node."""
    older_than: NonNegativeFloat = 1_209_600
    """Seconds that a worker image was not used for before it may go: two weeks."""
    keep: NonNegativeInt = 5
    """Worker images that stay whatever their age, those last used."""
    keep_files: NonNegativeFloat | None = None
    """Seconds that the workspaces and conversations stay which a delete kept or a failed worker left; unset: for
    ever, since a worker of that name may come back."""
    settle: NonNegativeFloat = 600
    """Seconds for which nothing new, and nothing of a worker that has just ended, is touched."""


class RetentionSettings(BaseModel, frozen=True):
    """How long what is over is remembered."""

    records: NonNegativeFloat = 2_592_000
    """Seconds after the end of a task, or of a worker of which nothing else is left, until its record goes, with
    its transcripts and evidence: thirty days; 0: never. The id of a task stays taken for
    thirty days more."""


class EngineSettings(BaseModel, frozen=True):
    """What workers with the capability `docker-cli` may have of this node's container engine."""

    access: bool = False
    """Whether there are such workers at all; without it, they are refused."""
    images: tuple[str, ...] = ()
    """Images that they may pull and run: patterns such as `python:3.*` or `ghcr.io/acme/*`; one without a tag
    allows every tag."""


class ManagerSettings(ProcessSettings):
    """Settings of one node's worker manager."""

    runtime: RuntimeChoice = "auto"
    """What `auto` workers get here; `auto` again: docker where an engine answers, else processes."""
    max_workers: PositiveInt = 16
    """Workers at once on this node, paused ones among them; more are queued."""
    memory_mb: PositiveInt | None = None
    """MiB of memory that this node has for workers; unset: what its engine has, or else this host."""
    memory_overcommit: PositiveFloat = 2
    """How often that memory may be promised: the limits of all its workers together stay below the product."""
    overtaking: bool = False
    """Whether a worker that there is room for may start before an older one that waits for more."""
    parallel_starts: PositiveInt = 4
    """Workers of this node that may be starting at once, from the unit's start to `ready`; the oldest first."""
    queue_timeout: NonNegativeFloat = 1800
    """Seconds that a worker waits for room unless it says otherwise; 0: for ever."""
    idle_pause: NonNegativeFloat = 900
    """Seconds without a task after which a worker is paused unless it says otherwise; 0: never."""
    idle_expiry: NonNegativeFloat = 0
    """Seconds without a task after which a worker is deleted, with its workspace, unless it says otherwise; 0:
    never."""
    caps: Caps = Caps()
    base_image: str = "python:3.12-slim"
    """What worker images are built on."""
    node_image: str = "node:22-slim"
    """Where npm agents are installed before they are copied into a worker image."""
    data: tuple[Path, ...] = ()
    """Directories with `agents/*.toml` and `capabilities/*.toml` of one's own."""
    engine: EngineSettings = EngineSettings()
    warm: WarmSettings = WarmSettings()
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
    credential_life: Annotated[float, Field(ge=2, le=86_400)] = 900
    """Seconds that a worker's bus credential lasts; it is renewed in time, and through its task's deadline where
    that is later."""
    max_restarts: PositiveInt = 3
    """Units of one worker that may end in a row, no task started in between, before it is given up."""
    node_ttl: Annotated[float, Field(ge=2)] = 15
    """Seconds that this node counts as there after its manager was last heard of."""
    node_grace: PositiveFloat = 60
    """Seconds that a node may be gone before its workers are lost."""
    host_path: str = Field(default_factory=lambda: os.environ.get("PATH", os.defpath))
    """Where workers that are plain processes look for their agent."""
    host_environment: dict[str, str] = Field(default_factory=_host_environment)
    """What workers that are plain processes get of this host's environment: locale and certificates."""
    session_longest: PositiveFloat = 86_400
    """Seconds after its beginning that a conversation is gone on with."""
    session_idle: PositiveFloat = 1800
    """Seconds without a task after which the next one begins a fresh conversation."""
    cleaning: CleaningSettings = CleaningSettings()
    retention: RetentionSettings = RetentionSettings()
    disk_reserve: NonNegativeFloat = 1_073_741_824
    """What has to be free on the disks of the engine and of the state directory before a worker is made: below 1
    a part of the disk, else bytes; 0: nothing. Below it, worker images that nobody uses are removed at once."""
    evidence_patience: PositiveFloat = 20
    """Seconds that an end, and a removal, wait at most for their evidence to be stored."""
    tick: PositiveFloat = 5
    """Seconds between two looks at everything, behind all hints."""
