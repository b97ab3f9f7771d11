"""What a worker gets to see of the engine, and what it may ask of lists."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from services.worker_manager.engine_door.images import Allowed
from services.worker_manager.engine_door.owner import Belongings, Owner
from services.worker_manager.engine_door.refusal import Refusal
from services.worker_manager.engine_door.shares import Share
from services.worker_manager.engine_door.target import NEWEST
from services.worker_manager.engine_door.wire import Answer, Header

_INFO = (
    "OSType",
    "OperatingSystem",
    "OSVersion",
    "Architecture",
    "KernelVersion",
    "ServerVersion",
    "Driver",
    "CgroupDriver",
    "CgroupVersion",
    "DefaultRuntime",
    "SecurityOptions",
    "SystemTime",
)
_FILTERS: Mapping[str, frozenset[str]] = {
    "containers": frozenset({"id", "name", "label", "status", "exited", "health", "ancestor"}),
    "networks": frozenset({"id", "name", "label", "driver", "dangling", "scope", "type"}),
    "volumes": frozenset({"name", "label", "driver", "dangling"}),
    "events": frozenset({"container", "event", "label", "type"}),
}
_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*([/:@][A-Za-z0-9_][A-Za-z0-9_.-]*)*")


def ping(answer: Answer) -> list[Header]:
    """Headers of a ping: the newest version of the API that both the engine and the door speak."""
    told = answer.headers.get(b"api-version", b"").decode()
    minor = told.removeprefix("1.")
    spoken = min(int(minor), NEWEST) if minor.isdigit() else NEWEST
    return [*answer.shown, ("Api-Version", f"1.{spoken}")]


def filters(what: str, text: str) -> dict[str, list[str]]:
    """The filters that a worker gives, in the newer of their two forms.

    Raises:
        Refusal: unknown ones, or such as would tell what else is on the engine.
    """
    try:
        given = msgspec.json.decode(text) if text else {}
    except (msgspec.DecodeError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise Refusal("filters: a JSON object is expected", 400)
    made: dict[str, list[str]] = {}
    for name, values in given.items():
        if name not in _FILTERS[what]:
            raise Refusal(f"the filter {name[:100]!r} is not for workers")
        chosen = [v for v, on in values.items() if on] if isinstance(values, dict) else values
        if not isinstance(chosen, list) or not all(isinstance(v, str) for v in chosen):
            raise Refusal(f"filters: {name}: a list of texts is expected", 400)
        made[name] = chosen
    if what == "events":
        if not set(made.get("type", ())) <= {"container"}:
            raise Refusal("of events, a worker is told those of its containers")
        made["type"] = ["container"]
    return made


def pull(query: Mapping[str, str], images: Allowed) -> dict[str, str]:
    """The parameters of a pull: of one image, never of all of a name's tags.

    Raises:
        Refusal: not one of the images that workers may use.
    """
    name, tag = query.get("fromImage", ""), query.get("tag", "")
    if not name or not plain_reference(name) or (tag and not plain_reference(tag)):
        raise Refusal("fromImage: the name of an image is expected", 400)
    separator = "@" if tag.startswith("sha256:") else ":"
    full = f"{name}{separator}{tag}" if tag else name
    if not images.allows(full):
        raise Refusal(f"the image {full[:200]!r} is not among those for workers: {images}")
    if not tag and "@" not in name and ":" not in name.rpartition("/")[2]:
        tag = "latest"
    platform = query.get("platform", "")
    return {
        "fromImage": name,
        **({"tag": tag} if tag else {}),
        **({"platform": platform} if platform else {}),
    }


def plain_reference(name: str) -> bool:
    """Whether it has the form of an image's name."""
    return _REFERENCE.fullmatch(name) is not None


def images(listed: Sequence[Mapping[str, Any]], allowed: Allowed) -> list[dict[str, Any]]:
    """Those of a list that a worker may use, under the names by which it may."""
    seen = []
    for each in listed:
        tags = allowed.among(each.get("RepoTags"))
        digests = allowed.among(each.get("RepoDigests"))
        if tags or digests:
            seen.append({**each, "RepoTags": tags, "RepoDigests": digests})
    return seen


def info(told: Mapping[str, Any], owner: Owner, own: Belongings) -> dict[str, Any]:
    """The engine as a worker sees it: as large as the worker's limits, and with its containers."""
    states = [child.state for child in own.containers]
    whole = Share.whole(owner.limits)
    return {
        **{name: told[name] for name in _INFO if name in told},
        "ID": owner.container,
        "Name": owner.worker,
        "NCPU": max(int(min(owner.limits.cpus, told.get("NCPU", 1))), 1),
        "MemTotal": whole.memory,
        "Containers": len(states),
        "ContainersRunning": states.count("running"),
        "ContainersPaused": states.count("paused"),
        "ContainersStopped": sum(state not in {"running", "paused"} for state in states),
        "Images": 0,
        "LoggingDriver": "json-file",
        "Plugins": {"Volume": ["local"], "Network": ["bridge"], "Log": ["json-file"]},
        "Swarm": {"LocalNodeState": "inactive"},
        "Warnings": None,
    }


def message(answer: Any) -> str:
    """Of an engine's error."""
    told = answer.get("message") if isinstance(answer, dict) else None
    return str(told or "the container engine fails")
