"""The other bodies: volumes, networks and commands in running containers."""

from collections.abc import Mapping
from typing import Any

from services.worker_manager.engine_door import fields as f
from services.worker_manager.engine_door.creation import ENDPOINT
from services.worker_manager.engine_door.fields import Rule, picked
from services.worker_manager.engine_door.owner import Owner, new_name
from services.worker_manager.engine_door.refusal import Refusal

_VOLUME: Mapping[str, Rule] = {"Name": f.text, "Driver": f.one_of("local"), "Labels": f.labels}
_NETWORK_FIELDS: Mapping[str, Rule] = {
    "Name": f.text,
    "Driver": f.one_of("bridge"),
    "Labels": f.labels,
    "Internal": f.flag,
    "EnableIPv4": f.flag,
    **dict.fromkeys(("CheckDuplicate", "Attachable"), f.nothing),
    "Scope": f.one_of("local"),
    "IPAM": f.fields({"Driver": f.one_of("default")}),
}
_NO_CHOICE = "is refused: the engine chooses, so that no network stands in another one's way"
_CONNECT: Mapping[str, Rule] = {"Container": f.text, "EndpointConfig": f.fields(ENDPOINT)}
_EXEC: Mapping[str, Rule] = {
    **dict.fromkeys(("AttachStdin", "AttachStdout", "AttachStderr", "Tty"), f.flag),
    **dict.fromkeys(("User", "WorkingDir", "DetachKeys"), f.text),
    "Detach": f.nothing,
    "Env": f.every(f.text),
    "Cmd": f.words,
    "ConsoleSize": f.every(f.number(0, 10_000)),
}
_EXEC_START: Mapping[str, Rule] = {
    "Detach": f.flag,
    "Tty": f.flag,
    "ConsoleSize": f.every(f.number(0, 10_000)),
}


def volume(body: Any, owner: Owner) -> dict[str, Any]:
    """Of the plain kind alone: options of the usual driver can name any path of the host."""
    given = picked(
        body, _VOLUME, "", {"DriverOpts": "is refused: it could name a path of the host"}
    )
    name = {"Name": new_name(given["Name"], "volume")} if "Name" in given else {}
    return {**name, "Driver": "local", "Labels": {**given.get("Labels", {}), **owner.labels}}


def network(body: Any, owner: Owner) -> dict[str, Any]:
    """A bridge without choices. Where the worker has no network it leads nowhere, the host included."""
    given = picked(body, _NETWORK_FIELDS, "", {"Options": _NO_CHOICE})
    return _network(
        owner,
        new_name(given.get("Name", ""), "network"),
        given.get("Labels", {}),
        internal=given.get("Internal", False),
    )


def default_network(owner: Owner) -> dict[str, Any]:
    """The one for containers that name none."""
    return _network(owner, owner.network, {}, internal=False)


def _network(
    owner: Owner, name: str, labels: Mapping[str, str], *, internal: bool
) -> dict[str, Any]:
    silent = {"com.docker.network.bridge.inhibit_ipv4": "true"}
    return {
        "Name": name,
        "Driver": "bridge",
        "CheckDuplicate": True,
        "Internal": internal or not owner.egress,
        "Labels": {**labels, **owner.labels},
        "Options": {} if owner.egress else silent,
    }


def connection(body: Any) -> tuple[str, dict[str, Any]]:
    """Which container is to be connected, and how."""
    given = picked(body, _CONNECT, "")
    if "Container" not in given:
        raise Refusal("Container: the name of a container is expected", 400)
    return given["Container"], given.get("EndpointConfig", {})


def disconnection(body: Any) -> tuple[str, bool]:
    """Which container is to be disconnected, and whether by force."""
    given = picked(body, {"Container": f.text, "Force": f.flag}, "")
    if "Container" not in given:
        raise Refusal("Container: the name of a container is expected", 400)
    return given["Container"], given.get("Force", False)


def command(body: Any) -> dict[str, Any]:
    """A command for a container of the worker's own, with no more rights than that has."""
    return picked(body, _EXEC, "")


def command_start(body: Any) -> dict[str, Any]:
    """How a command is begun."""
    return picked(body or {}, _EXEC_START, "")
