"""Images and cleaning: the record of a worker image on a node, and the command that removes what nothing needs."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from contracts.ids import Instant, NodeId, Token, WorkerId

Leftover = Literal[
    "image", "container", "network", "volume", "directory", "consumer", "secret", "session",
    "revocation", "task-record", "worker-record",
]  # fmt: skip
"""What cleaning removes, once nothing needs it."""


class ImageRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An image on one node's engine, under the key `<node>.<image>`: each node writes its own, so that no two
    compete for a record; changed by compare-and-set only."""

    image: str
    """The hash in its tag, which is also its id in events."""
    node: NodeId
    tag: str
    agent: str = ""
    """Empty for the base that worker images are built on."""
    capabilities: list[str] = []
    size_bytes: int = 0
    """With the layers that it shares with others."""
    built_at: Instant
    last_used_at: Instant
    """When a worker last needed it, or was last seen to."""
    last_used_by: WorkerId | None = None


class CleanUp(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Remove what nothing needs any more: worker images that were not used for long, all that is left of workers
    that are no more, and in time their records. What runs, is leased or is not known stays."""

    dry_run: bool = False
    """Tell what would be removed, and remove nothing."""
    older_than: Annotated[float, Meta(ge=0, le=315_360_000)] | None = None
    """Seconds that an image must not have been used for; None: as the node is set."""
    keep: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    """Images to keep whatever their age, those last used; None: as the node is set."""
    node: Token | None = None
    """On this node only; None: on every node there is."""


class Judged(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing, and why it was removed or kept."""

    kind: Leftover
    name: str
    why: str
    worker: str | None = None
    size_bytes: int = 0
    """Where it is known: of images."""
    unknown: bool = False
    """Kept since no record tells what it is."""


class Cleaned(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came of cleaning one node."""

    node: NodeId
    dry_run: bool = False
    removed: list[Judged] = []
    """Or what would be, of a dry run."""
    kept: list[Judged] = []
    """What a cleaning looks at and may not remove; what live workers use is not listed, but for images."""
    removed_bytes: int = 0
    """Of the images, shared layers counted with each."""
    unlisted: int = 0
    """Things more than are listed here."""
    doubt: str | None = None
    """Why nothing at all was removed, where it is not known who needs what."""
