"""The body that makes a container: deny by default, names replaced by what they were found to mean."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from services.worker_manager.engine_door import fields as f
from services.worker_manager.engine_door.fields import Rule, picked
from services.worker_manager.engine_door.mounts import MOUNT, Mounts
from services.worker_manager.engine_door.owner import RESTARTS, Belongings, Owner
from services.worker_manager.engine_door.refusal import Refusal, absent
from services.worker_manager.engine_door.shares import Share, share
from services.worker_manager.runtimes.profile import LOG_FILE_MB, LOG_FILES, OPEN_FILES

DEFAULT_NETWORKS = frozenset({"", "default", "bridge"})
DROPPED = ("AUDIT_WRITE", "MKNOD", "NET_RAW")
"""Of an engine's usual capabilities. With raw packets a container could pose as another one's gateway."""
_CAPABILITY = f.matching(r"[A-Za-z_]{2,40}", "a capability's name")
_DURATION = f.number(0, 10**15)
_WHOLE = f.number(1, 2**62)

CONFIG: Mapping[str, Rule] = {
    **dict.fromkeys(
        ("Hostname", "Domainname", "User", "Image", "WorkingDir", "StopSignal"), f.text
    ),
    **dict.fromkeys(
        ("AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce"), f.flag
    ),
    "Env": f.every(f.text),
    "Cmd": f.words,
    "Entrypoint": f.words,
    "Shell": f.words,
    "Labels": f.labels,
    "StopTimeout": f.number(0, 3600),
    "ExposedPorts": f.table(
        f.matching(r"[0-9]{1,5}(-[0-9]{1,5})?/(tcp|udp|sctp)", "PORT/PROTOCOL"), f.fields({})
    ),
    "Volumes": f.table(f.text, f.fields({})),
    "Healthcheck": f.fields(
        {
            "Test": f.every(f.text),
            **dict.fromkeys(("Interval", "Timeout", "StartPeriod", "StartInterval"), _DURATION),
            "Retries": f.number(0, 1000),
        }
    ),
    "HostConfig": lambda value, _: value,
    "NetworkingConfig": lambda value, _: value,
}
HOST: Mapping[str, Rule] = {
    **dict.fromkeys(("AutoRemove", "ReadonlyRootfs", "Init"), f.flag),
    **dict.fromkeys(("NetworkMode", "IpcMode", "PidMode"), f.text),
    **dict.fromkeys(("Binds", "VolumesFrom", "ExtraHosts", "GroupAdd"), f.every(f.text)),
    "Memory": _WHOLE,
    "MemoryReservation": _WHOLE,
    "MemorySwap": _WHOLE,
    "MemorySwappiness": f.one_of(-1),
    "NanoCpus": _WHOLE,
    "PidsLimit": f.number(-1, 2**31),
    "ShmSize": _WHOLE,
    "CapDrop": f.every(_CAPABILITY),
    "CgroupnsMode": f.one_of("private"),
    "ConsoleSize": f.every(f.number(0, 10_000)),
    "ContainerIDFile": f.nothing,
    "LogConfig": f.fields(
        {"Type": f.one_of("json-file"), "Config": f.fields({})},
    ),
    "Mounts": f.every(MOUNT),
    "RestartPolicy": f.fields(
        {
            "Name": f.one_of("no", "on-failure", "always", "unless-stopped"),
            "MaximumRetryCount": f.number(0, 1000),
        }
    ),
    "SecurityOpt": f.every(
        f.one_of("no-new-privileges", "no-new-privileges:true", "no-new-privileges=true")
    ),
    "Tmpfs": f.table(
        f.matching(r"/[^,:\0]*", "an absolute path"),
        f.matching(
            r"|(rw|ro|exec|noexec|suid|nosuid|nodev|(size|mode|uid|gid)=[0-9]+[kmg%]?|,)+",
            "options such as size=64m",
        ),
    ),
    "VolumeDriver": f.one_of("local"),
}
_AS_ASKED = ("AutoRemove", "ReadonlyRootfs", "Init", "ExtraHosts", "GroupAdd", "MemoryReservation", "ShmSize",
             "CgroupnsMode", "ConsoleSize", "RestartPolicy", "Tmpfs")  # fmt: skip
"""Fields of the host's that are sent as they came, once they were checked."""
ENDPOINT: Mapping[str, Rule] = {
    "Aliases": f.every(f.matching(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", "a host's name")),
    "NetworkID": f.nothing,
}
WHY_NOT = {
    "PortBindings": "is refused: no port of the host is given away. Containers of one network reach each "
    "other by name; `docker network connect NETWORK WORKER` lets the worker itself in",
    "PublishAllPorts": "is refused: no port of the host is given away",
    "Privileged": "is refused: it would give the host away",
    "CapAdd": "is refused: no capability is added to the usual ones",
    "Links": "is refused: containers of one network reach each other by name",
    "Devices": "is refused: the host's devices are not for workers",
}


@dataclass(frozen=True, kw_only=True)
class Creation:
    """A container to be made."""

    body: dict[str, Any]
    volumes: frozenset[str] = frozenset()
    """Named volumes that have to be there before, as the worker's own."""


@dataclass(frozen=True, kw_only=True)
class Around:
    """What a body is checked against."""

    owner: Owner
    own: Belongings
    cpus_there: float
    version: int | None = None
    """Of the API that the request is written in."""
    image_volumes: Iterable[str] = ()
    """Paths that the image wants volumes at."""
    workspace: str = ""
    """Name of the volume that the worker works in."""
    default_network: str = "none"
    """Id of the network for containers that name none."""


def names_no_network(body: Any) -> bool:
    """Whether a body leaves it to us which network the container is on."""
    host = body.get("HostConfig") if isinstance(body, dict) else None
    mode = host.get("NetworkMode") if isinstance(host, dict) else None
    return mode is None or (isinstance(mode, str) and mode in DEFAULT_NETWORKS)


def container(body: Any, around: Around) -> Creation:
    """The body as it is sent.

    Raises:
        Refusal: it asks for more than a worker may have; the field is named.
    """
    config = picked(body, CONFIG, "")
    host = picked(config.pop("HostConfig", {}), HOST, "HostConfig", WHY_NOT)
    networking = config.pop("NetworkingConfig", None) or {}
    mode = _network(host.get("NetworkMode", ""), around)
    given = _share(host, around)
    mounts = Mounts(around.owner, around.own, around.workspace, around.version)
    made = mounts.all(
        host.get("Binds", ()),
        host.get("Mounts", ()),
        [*config.pop("Volumes", ()), *around.image_volumes],
        host.get("Tmpfs", ()),
    )
    restarts = host.get("RestartPolicy", {}).get("Name", "no") != "no"
    config["Labels"] = {
        **config.get("Labels", {}),
        **around.owner.labels,
        **given.labels(),
        **({RESTARTS: "yes"} if restarts else {}),
    }
    config["HostConfig"] = {
        **{name: host[name] for name in _AS_ASKED if name in host},
        **_always(given),
        **_namespaces(host, around),
        "NetworkMode": mode,
        "VolumesFrom": [_volumes_from(each, around.own) for each in host.get("VolumesFrom", ())],
        "Mounts": made,
        "CapDrop": sorted({*host.get("CapDrop", ()), *DROPPED}),
    }
    config["NetworkingConfig"] = {"EndpointsConfig": _endpoints(networking, mode, around)}
    return Creation(body=config, volumes=mounts.new)


def _share(host: Mapping[str, Any], around: Around) -> Share:
    given = share(host, around.owner.limits, around.cpus_there)
    if host.get("MemorySwap", given.memory) != given.memory:
        raise Refusal("HostConfig.MemorySwap: swap is not added to memory here; leave it out")
    for name in ("ShmSize", "MemoryReservation"):
        if host.get(name, 0) > given.memory:
            raise Refusal(f"HostConfig.{name} is more than the container's memory")
    return given


def _always(given: Share) -> dict[str, Any]:
    """What every container gets, whatever is asked for it."""
    return {
        "Privileged": False,
        "SecurityOpt": ["no-new-privileges"],
        "Memory": given.memory,
        "MemorySwap": given.memory,
        "NanoCpus": given.nano_cpus,
        "PidsLimit": given.pids,
        "Ulimits": [{"Name": "nofile", "Soft": OPEN_FILES, "Hard": OPEN_FILES}],
        "LogConfig": {
            "Type": "json-file",
            "Config": {"max-size": f"{LOG_FILE_MB}m", "max-file": str(LOG_FILES)},
        },
    }


def _namespaces(host: Mapping[str, Any], around: Around) -> dict[str, str]:
    plain = {"IpcMode": ("private", "none", "shareable"), "PidMode": ()}
    return {
        name: _namespace(host.get(name, ""), name, known, around) for name, known in plain.items()
    }


def _namespace(mode: str, name: str, plain: tuple[str, ...], around: Around) -> str:
    """A private one, or that of a container of the worker's own."""
    if not mode or mode in plain:
        return mode
    kind, _, ref = mode.partition(":")
    if kind == "container" and ref:
        return f"container:{around.own.container(ref).id}"
    raise Refusal(f"HostConfig.{name}: {mode[:100]!r} is not for workers")


def _network(mode: str, around: Around) -> str:
    if mode in DEFAULT_NETWORKS:
        return around.default_network
    if mode == "none":
        return mode
    if mode == "host" or mode.startswith("container:"):
        return _namespace(mode, "NetworkMode", (), around)
    return around.own.network(mode)


def _endpoints(networking: Any, mode: str, around: Around) -> dict[str, Any]:
    given = picked(
        networking, {"EndpointsConfig": f.table(f.text, f.fields(ENDPOINT))}, "NetworkingConfig"
    ).get("EndpointsConfig", {})
    named = {_network(name, around): endpoint for name, endpoint in given.items()}
    if mode != "none" and not mode.startswith("container:"):
        return named
    if any(named.values()):
        raise Refusal("NetworkingConfig.EndpointsConfig: the container has no network")
    return {}


def _volumes_from(source: str, own: Belongings) -> str:
    ref, colon, mode = source.partition(":")
    if mode not in {"", "ro", "rw"}:
        raise Refusal(f"HostConfig.VolumesFrom: {source[:100]!r} is not CONTAINER[:ro]", 400)
    if not ref:
        raise absent("container", ref)
    return own.container(ref).id + colon + mode
