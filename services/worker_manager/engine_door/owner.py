"""Whose door it is, and what was made through it."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from contracts.worker import Limits
from services.worker_manager.engine_door.images import Allowed
from services.worker_manager.engine_door.refusal import Refusal, absent
from services.worker_manager.engine_door.shares import Share
from services.worker_manager.runtimes.profile import Names

KIND = "child"
"""Value of the label `jetcrew.kind` of all that is made through a door."""
RESTARTS = "jetcrew.restarts"
"""Label of a container that the engine may start by itself."""
RESERVED = "jetcrew"
"""Beginning of names that are the control plane's."""
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,127}")
_NOT_NAMES = frozenset({"bridge", "host", "none", "default", "nat", "ingress"})
LIVE = frozenset({"running", "paused", "restarting"})


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A worker, as far as its door has to know it."""

    names: Names
    worker: str
    limits: Limits
    egress: bool
    """Whether it has a network; without one, its containers reach nobody but each other."""
    images: Allowed

    @property
    def labels(self) -> dict[str, str]:
        """Of all that is made through its door."""
        return self.names.labels(KIND, self.worker)

    @property
    def container(self) -> str:
        """Name of the worker's own container."""
        return self.names.container(self.worker)

    @property
    def network(self) -> str:
        """Name of the network for containers that name none."""
        return f"{self.container}.engine"

    def filters(self, given: Mapping[str, list[str]] | None = None) -> str:
        """The engine's filters for what is the worker's own, in addition to those given."""
        label = [f"{name}={value}" for name, value in self.labels.items()]
        chosen = dict(given or {})
        return json.dumps({**chosen, "label": [*chosen.get("label", ()), *label]})

    def owns(self, labels: Mapping[str, str] | None) -> bool:
        """Whether labels say that a thing was made through this door."""
        return self.labels.items() <= (labels or {}).items()


@dataclass(frozen=True, kw_only=True)
class Child:
    """A container made through the door."""

    id: str
    name: str
    state: str
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def share(self) -> Share:
        """What it was given of the worker's limits."""
        return Share.labelled(self.labels)

    @property
    def counts(self) -> bool:
        """Whether it takes its share: it runs, or the engine may start it by itself."""
        return self.state in LIVE or RESTARTS in self.labels


@dataclass(frozen=True, kw_only=True)
class Belongings:
    """All that is there of a worker's."""

    containers: tuple[Child, ...] = ()
    networks: Mapping[str, str] = field(default_factory=dict)
    """Ids by name."""
    volumes: frozenset[str] = frozenset()

    def container(self, ref: str) -> Child:
        """By id, name or the beginning of an id.

        Raises:
            Refusal: the worker has none by that.
        """
        for child in self.containers:
            if ref in {child.id, child.name}:
                return child
        begin = [child for child in self.containers if child.id.startswith(ref)]
        if len(begin) != 1:
            raise absent("container", ref)
        return begin[0]

    def network(self, ref: str) -> str:
        """Its id, by id, name or the beginning of an id.

        Raises:
            Refusal: the worker has none by that.
        """
        if ref in self.networks:
            return self.networks[ref]
        begin = [identity for identity in self.networks.values() if identity.startswith(ref)]
        if len(begin) != 1:
            raise absent("network", ref)
        return begin[0]

    def shares(self, without: str = "") -> Iterable[Share]:
        """What its containers take of its limits."""
        return [child.share for child in self.containers if child.counts and child.id != without]


def new_name(name: str, what: str) -> str:
    """A name that a worker may give.

    Raises:
        Refusal: not a name, or the control plane's.
    """
    if _NAME.fullmatch(name) is None:
        raise Refusal(f"{name[:100]!r} is not a name for a {what}", 400)
    if name.startswith(RESERVED) or name in _NOT_NAMES:
        raise Refusal(f"the name {name!r} is reserved; take another one for the {what}")
    return name


def children(answer: Iterable[Mapping[str, Any]]) -> tuple[Child, ...]:
    """The containers of an engine's list."""
    return tuple(
        Child(
            id=each["Id"],
            name=(each.get("Names") or ["/"])[0].removeprefix("/"),
            state=each["State"],
            labels=each["Labels"],
        )
        for each in answer
    )
