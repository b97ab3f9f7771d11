"""Everything jetcrew raises.

JetcrewError
├── InvalidMessage          a body that does not decode, or says something impossible: names the field
├── Refused                 understood, and not possible in the present state
│   ├── NotThere            the worker, task or agent it speaks of does not exist
│   ├── NotAllowed          the operator's settings do not allow it
│   ├── AlreadyThere        the name is taken
│   └── DiskFull            too little is free on a disk; the same may work later
├── TooLarge                one byte over the limit of the door it was going through
├── ResourceExhausted       no node had room for a worker within the time it may wait
├── Retry                   not now: deliver again after a delay
├── BusUnavailable          no server, or none that answers within the time given
├── BusClosed               the connection ended for good (credential expired or revoked)
├── Denied                  the credential does not allow it
├── QueueFull               a door's bound is reached: the publisher has to wait
├── Damaged                 a stored object is not what was stored: parts of it are gone
├── Conflict                a compare-and-set found another revision
├── LeaseLost               a lease is someone else's by now
├── TopologyDrift           the streams on the server are not the ones this version uses
├── NodeInUse               another worker manager works on the same state directory
├── NodeNameTaken           another node of the crew bears this name
├── EngineUnavailable       the container engine does not answer
├── EngineRefused           the container engine answers, and will not do it
│   └── ImageMissing        there is no image by that tag
├── ImageBuildFailed        a worker image could not be built, or failed its own check
└── ConfigurationInvalid    settings, or a file of an agent or a capability, are wrong
"""


class JetcrewError(Exception):
    """Root of every error that jetcrew raises on purpose."""


class InvalidMessage(JetcrewError):
    """A message is not what its door takes.

    `field` is a path such as `$.limits.cpus`; `reason` says what was found and what would be right.
    """

    code = 422

    def __init__(self, reason: str, *, field: str = "$") -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class Refused(JetcrewError):
    """Well-formed, and not possible now; nothing was changed."""

    code = 409

    def __init__(self, reason: str, *, field: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.field = field


class NotThere(Refused):
    """It speaks of something that does not exist."""

    code = 404


class NotAllowed(Refused):
    """The operator's settings do not allow it; the sentence names the setting."""

    code = 403


class AlreadyThere(Refused):
    """It would make something that exists."""


class DiskFull(Refused):
    """Too little is free on a disk for another worker; the same may work later."""

    code = 507


class TooLarge(JetcrewError):
    """A message exceeds what its door takes; it was not sent."""

    code = 413

    def __init__(self, size_bytes: int, limit_bytes: int, what: str = "message") -> None:
        super().__init__(
            f"{what} of {size_bytes:,} bytes (headers counted) is over the limit of {limit_bytes:,}"
        )
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class ResourceExhausted(JetcrewError):
    """No node had room for a worker for as long as it may wait; `str()` is the reason its record gives."""

    def __init__(self, waited: float, why: str) -> None:
        super().__init__(f"resource-exhausted: no room within {waited:g} s: {why}")
        self.waited = waited
        self.why = why


class Retry(JetcrewError):
    """The handler cannot finish now; deliver the message again after `after` seconds."""

    def __init__(self, why: str, *, after: float = 1.0) -> None:
        super().__init__(why)
        self.after = after


class BusUnavailable(JetcrewError):
    """No server answers; the work was not done, or it is not known whether it was."""


class BusClosed(JetcrewError):
    """The connection ended and will not come back by itself; the process should end too."""


class Denied(JetcrewError):
    """The credential in use does not allow this."""


class QueueFull(JetcrewError):
    """The stream, or this subject of it, holds as many messages as it may; try again later."""


class Damaged(JetcrewError):
    """What came out of the object store is not what was put into it."""


class Conflict(JetcrewError):
    """Somebody changed the record in between; read it again and decide again."""


class LeaseLost(JetcrewError):
    """The lease expired or was taken; stop what it guards."""


class TopologyDrift(JetcrewError):
    """Streams, consumers or buckets on the server differ from what this version needs."""


class ConfigurationInvalid(JetcrewError):
    """A setting or a data file is wrong; the message names it and what would be right."""


class NodeInUse(JetcrewError):
    """Another worker manager works on this state directory."""

    def __init__(self, directory: object) -> None:
        super().__init__(
            f"another worker manager works on {directory}; stop it, or choose another JETCREW_STATE_DIR"
        )


class NodeNameTaken(JetcrewError):
    """Another worker manager of this crew is there under the same node name."""

    def __init__(self, node: str, owner: str) -> None:
        super().__init__(
            f"node name {node!r} is taken by the worker manager at {owner}; give this one another JETCREW_NODE"
        )


class EngineUnavailable(JetcrewError):
    """The container engine does not answer; what runs on it is unknown, not dead."""


class EngineRefused(JetcrewError):
    """The container engine answers and will not do what was asked; asking again will not help."""


class ImageMissing(EngineRefused):
    """There is no image by this tag on the engine."""

    def __init__(self, tag: str) -> None:
        super().__init__(f"no image {tag} on this engine")
        self.tag = tag


class ImageBuildFailed(JetcrewError):
    """A worker image could not be built, or failed the check that follows its build."""

    def __init__(self, tag: str, step: str, log_tail: str) -> None:
        last = log_tail.rstrip().rpartition("\n")[2]
        super().__init__(f"image {tag} failed at: {step}" + (f" ({last})" if last else ""))
        self.tag = tag
        self.step = step
        self.log_tail = log_tail
