"""What a look at a node finds. Nothing here asks anybody."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from contracts.image import Judged, Leftover
from contracts.worker import WorkerRecord


@dataclass(frozen=True, kw_only=True)
class Thing:
    """Something that is, or was, a worker's: on the engine, in a directory, on the bus."""

    kind: Leftover
    name: str
    id: str = ""
    """Of a container, whose name a later one may take."""
    worker: str | None = None
    """Whose it is; None where it is nobody's in particular."""
    incarnation: int | None = None
    live: bool = False
    """Whether it runs, or is frozen and can go on."""
    made_at: datetime | None = None
    purpose: str = ""
    """Of a container: its label `jetcrew.kind`."""
    image: str = ""
    """Of a container: the tag it was made from."""
    over: bool = False
    """Of a shared session: no task goes on with it any more."""
    revision: int = 0
    """Of an entry of a bucket: removed only if it still has this one."""


@dataclass(frozen=True, kw_only=True)
class SeenImage:
    """A worker image, or a base of some, on the engine."""

    tag: str
    id: str
    """The engine's, which its containers name."""
    base: bool = False
    checked: bool = True
    agent: str = ""
    capabilities: frozenset[str] = frozenset()
    size_bytes: int = 0
    made_at: datetime
    ours: bool
    """Whether this crew built it, on this node."""
    used_at: datetime | None = None
    """As recorded; None when there is no record."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One look at everything on a node."""

    node: str
    workers: Mapping[str, WorkerRecord] | None
    """Of the whole crew, ended ones among them; None when they cannot be read."""
    doubt: str | None = None
    """Why they cannot be read."""
    at: datetime | None = None
    """When it began."""
    engine: bool = False
    """Whether the container engine answered."""
    things: tuple[Thing, ...] = ()
    images: tuple[SeenImage, ...] = ()
    images_in_use: frozenset[str] = frozenset()
    """Ids of the images that containers are made from, whoever they belong to."""
    building: frozenset[str] = frozenset()
    """Digests of what is being built, here or by another manager that holds the lease for it."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What may go. Times in seconds."""

    older_than: float
    """That an image was not used for."""
    keep: int
    """Images that stay whatever their age, those last used."""
    keep_files: float | None
    """For which workspaces and conversations stay that were left on purpose, or by a failed worker; None: for
    ever."""
    settle: float
    """For which whatever is new, and whatever belongs to a worker that has just ended, is left alone."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is to become of one thing, and why."""

    what: Thing | SeenImage
    remove: bool
    why: str
    unknown: bool = False
    """It is kept since nobody knows what it is; somebody should be told."""
    in_use: bool = False
    """Of an image: something needs it now."""

    def judged(self, why: str | None = None) -> Judged:
        """As it is told."""
        if isinstance(self.what, SeenImage):
            return Judged(
                kind="image",
                name=self.what.tag,
                why=why or self.why,
                size_bytes=self.what.size_bytes,
            )
        return Judged(
            kind=self.what.kind,
            name=self.what.name,
            why=why or self.why,
            worker=self.what.worker,
            unknown=self.unknown,
        )
