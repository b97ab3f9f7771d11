"""Which requests there are for a worker at all, and the parameters of each. All others are refused."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from services.worker_manager.engine_door.refusal import Refusal
from services.worker_manager.engine_door.target import Target

_PARTS = {
    "{own}": r"(?P<ref>[A-Za-z0-9][A-Za-z0-9_.-]*)",
    "{exec}": r"(?P<ref>[0-9a-f]{64})",
    "{image}": r"(?P<ref>[A-Za-z0-9][A-Za-z0-9_.:@/-]*)",
}
# Each line: methods, path, what is done with it, parameters.
_TABLE = """
    GET,HEAD /_ping                     ping
    GET      /version                   pass
    GET      /info                      info
    GET      /events                    events        since until filters
    GET      /containers/json           containers    all limit size filters
    POST     /containers/create         create        name platform
    GET      /containers/{own}/json     of-container  size
    GET      /containers/{own}/top      top           ps_args
    GET      /containers/{own}/logs     of-container  follow stdout stderr since until timestamps tail details
    GET      /containers/{own}/changes  of-container
    GET      /containers/{own}/stats    of-container  stream one-shot
    POST     /containers/{own}/resize   of-container  h w
    POST     /containers/{own}/start    begin         detachKeys
    POST     /containers/{own}/restart  begin         t signal
    POST     /containers/{own}/stop     of-container  t signal
    POST     /containers/{own}/kill     of-container  signal
    POST     /containers/{own}/pause    of-container
    POST     /containers/{own}/unpause  of-container
    POST     /containers/{own}/rename   rename        name
    POST     /containers/{own}/wait     of-container  condition
    POST     /containers/{own}/attach   attach        detachKeys logs stream stdin stdout stderr
    GET,HEAD /containers/{own}/archive  of-container  path
    PUT      /containers/{own}/archive  upload        path noOverwriteDirNonDir copyUIDGID
    POST     /containers/{own}/exec     exec
    DELETE   /containers/{own}          of-container  v force
    POST     /exec/{exec}/start         exec-start
    POST     /exec/{exec}/resize        of-exec       h w
    GET      /exec/{exec}/json          of-exec
    GET      /images/json               images        all filters digests shared-size manifests
    POST     /images/create             pull          fromImage tag platform
    GET      /images/{image}/json       of-image
    GET      /networks                  networks      filters
    POST     /networks/create           network-create
    GET      /networks/{own}            of-network    verbose scope
    POST     /networks/{own}/connect    connect
    POST     /networks/{own}/disconnect disconnect
    DELETE   /networks/{own}            network-remove
    GET      /volumes                   volumes       filters
    POST     /volumes/create            volume-create
    GET      /volumes/{own}             of-volume
    DELETE   /volumes/{own}             volume-remove force
"""
_WHY_NOT = {
    "build": "images are not built here: a build's steps run outside of the worker's limits; "
    "ask the operator for the image, or mount the sources into a container of an allowed one",
    "session": "images are not built here",
    "grpc": "images are not built here",
    "commit": "images are not made here: a container's content would become an image that nobody allowed",
    "auth": "registries are asked by the operator's engine, without credentials of a worker",
    "distribution": "registries are asked by pulls alone",
    "swarm": "the engine is one host's, and its cluster is not a worker's",
}


@dataclass(frozen=True)
class Route:
    """One kind of request."""

    methods: tuple[str, ...]
    pattern: re.Pattern[str]
    action: str
    parameters: frozenset[str]


def _route(line: str) -> Route:
    methods, path, action, *parameters = line.split()
    pattern = re.escape(path)
    for name, part in _PARTS.items():
        pattern = pattern.replace(re.escape(name), part)
    return Route(tuple(methods.split(",")), re.compile(pattern), action, frozenset(parameters))


ROUTES = tuple(_route(line) for line in _TABLE.strip().splitlines())


def found(method: str, target: Target) -> tuple[str, Mapping[str, str]]:
    """What a request asks for: an action, and what its path names.

    Raises:
        Refusal: nothing that a worker may ask, or with a parameter that is not among those it may give.
    """
    for route in ROUTES:
        match = route.pattern.fullmatch(target.path)
        if match is None or method not in route.methods:
            continue
        if unknown := sorted(set(target.query) - route.parameters):
            raise Refusal(f"the parameter {unknown[0]!r} of {target.path} is not for workers")
        return route.action, match.groupdict()
    why = _WHY_NOT.get(target.path.split("/")[1], "it is not among what a worker may ask")
    raise Refusal(f"{method} {target.path[:200]}: {why}")
