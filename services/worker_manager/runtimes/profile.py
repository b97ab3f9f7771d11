"""How a worker's container is made: its names, its labels, and what it may not do."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker.types import LogConfig, Mount, Ulimit

from contracts.ids import is_token
from contracts.worker import Limits, Network

UID = 1000
"""Of everything in a worker; owner of its workspace and home."""
BOOT_DIRECTORY = "/run/cred"
BUS_DIRECTORY = "/run/jetcrew"
WORKSPACE = "/workspace"
HOME = "/home/worker"
BOOT_SOCKET = f"{BUS_DIRECTORY}/boot.sock"
AGENT_FILE = "/opt/jetcrew/agent.toml"
PATH = "/opt/agent/bin:/opt/tools/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
VOLUMES = {"workspace": WORKSPACE, "home": HOME}

BOOT_DIRECTORY_MB = 16
"""Instructions, environment and secrets of one worker are below this by their own limits."""
OPEN_FILES = 20_000
"""More needs a capability that an engine inside a container often lacks."""
LOG_FILE_MB = 10
LOG_FILES = 2

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Names:
    """What the things of one crew on one node are called.

    Crew, node and worker are subject tokens, which hold no dot, so that no two crews' names can meet.
    """

    crew: str
    node: str

    def container(self, worker: str) -> str:
        """Of a worker's container."""
        return f"jetcrew-{self.crew}.{worker}"

    def volume(self, worker: str, kind: str) -> str:
        """Of a worker's workspace or home."""
        return f"jetcrew-{self.crew}.{worker}.{kind}"

    def worker_of(self, container: str) -> str | None:
        """Whose container bears this name; None for one that waits for a worker, and for strangers."""
        ours, _, worker = container.removeprefix("/").rpartition(".")
        return worker if self.container("") == f"{ours}." and is_token(worker) else None

    @property
    def network(self) -> str:
        """Of the one network that the workers of this node share without seeing each other."""
        return f"jetcrew-{self.crew}.{self.node}"

    def labels(
        self, kind: str, worker: str | None = None, incarnation: int | None = None
    ) -> dict[str, str]:
        """Whose a thing is; by these alone it is found again."""
        labels = {"jetcrew.crew": self.crew, "jetcrew.node": self.node, "jetcrew.kind": kind}
        if worker is not None:
            labels["jetcrew.worker"] = worker
        if incarnation is not None:
            labels["jetcrew.incarnation"] = str(incarnation)
        return labels

    def filters(self, kind: str | None = None) -> list[str]:
        """Label filters for everything of one kind that is ours, or of all kinds."""
        labels = self.labels(kind or "")
        return [f"{name}={value}" for name, value in labels.items() if value]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One container to be made."""

    name: str
    hostname: str
    labels: dict[str, str]
    volumes: dict[str, str]
    """Names of its volumes by their kind."""
    volume_labels: dict[str, dict[str, str]]
    image: str
    limits: Limits
    network: Network
    directory: Path | None
    """Mounted where its sockets are looked for; None where it reaches the bus over a network."""


def hardened(limits: Limits, *, cpus_there: float = math.inf) -> Arguments:
    """What every container that runs an agent, or checks an image, is given: no privileges, nothing
    writable but memory, and bounds on all it can use up. `cpus_there`: how many the engine has; it
    refuses a container that wants more."""
    memory = f"{limits.memory_mb}m"
    return {
        "user": f"{UID}:{UID}",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "read_only": True,
        # Half of the memory: what is written there counts as memory, and a full disk hurts less than a kill.
        "tmpfs": {"/tmp": f"exec,nosuid,nodev,mode=1777,size={max(limits.memory_mb // 2, 16)}m"},  # noqa: S108
        "mem_limit": memory,
        "memswap_limit": memory,
        "nano_cpus": int(min(limits.cpus, cpus_there) * 1e9),
        "pids_limit": limits.pids,
        "ulimits": [Ulimit(name="nofile", soft=OPEN_FILES, hard=OPEN_FILES)],
        "init": True,
        "ipc_mode": "private",
        "privileged": False,
        "log_config": LogConfig(
            type=LogConfig.types.JSON,
            config={"max-size": f"{LOG_FILE_MB}m", "max-file": str(LOG_FILES)},
        ),
    }


def worker_container(names: Names, wanted: Wanted, *, cpus_there: float = math.inf) -> Arguments:
    """All arguments of the engine's create call for a worker."""
    arguments = hardened(wanted.limits, cpus_there=cpus_there)
    arguments["tmpfs"][BOOT_DIRECTORY] = (
        f"noexec,nosuid,nodev,uid={UID},gid={UID},mode=0700,size={BOOT_DIRECTORY_MB}m"
    )
    mounts = [
        Mount(target, wanted.volumes[kind], type="volume", labels=wanted.volume_labels[kind])
        for kind, target in VOLUMES.items()
    ]
    if wanted.directory is not None:
        mounts.append(Mount(BUS_DIRECTORY, str(wanted.directory), type="bind", read_only=True))
        arguments["command"] = ["--boot-socket", BOOT_SOCKET]
    if wanted.network == "none":
        arguments["network_mode"] = "none"
    else:
        arguments["network"] = names.network
        arguments["extra_hosts"] = {"host.docker.internal": "host-gateway"}
    return {
        **arguments,
        "image": wanted.image,
        "name": wanted.name,
        "hostname": wanted.hostname,
        "working_dir": WORKSPACE,
        "labels": wanted.labels,
        "mounts": mounts,
        "detach": True,
    }
