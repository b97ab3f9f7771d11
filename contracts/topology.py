"""Subjects, streams, consumers, buckets and object stores: spelled here and nowhere else."""

import base64
from dataclasses import dataclass, field
from typing import Literal

from contracts.events import Event
from contracts.ids import CommandId, NodeId, ProjectId, TaskId, WorkerId

MAX_PAYLOAD_BYTES = 1_048_576
"""The server's `max_payload`; headers count. One byte over it and the server closes the connection."""
DOOR_BYTES = 786_432
"""The most that a command or prompt may hold (768 KiB), so that it can be passed on with headers."""
INBOX = "_INBOX"

MINUTE = 60.0
DAY = 86_400.0
MIB = 1_048_576
GIB = 1024 * MIB

COMMANDS = {
    "worker": ("create", "delete", "pause", "resume", "status"),
    "task": ("cancel", "answer"),
    "session": ("forget",),
    "image": ("gc",),
    "dlq": ("redrive", "drop"),
    "project": ("create", "update", "archive"),
}
"""Entities and the verbs that both doors take for them."""

DOOR_ONLY = {"secret": ("put",), "worker": ("exec",), "artifact": ("put", "keep")}
"""Verbs that only the synchronous door takes: what they carry must not be stored in a stream, or is of no
use later."""


@dataclass(frozen=True)
class Subjects:
    """The subjects under one prefix."""

    prefix: str = "jetcrew"

    def command(self, entity: str, verb: str) -> str:
        """Durable door: stored, the PubAck is the receipt."""
        return f"{self.prefix}.cmd.{entity}.{verb}"

    def door(self, entity: str, verb: str) -> str:
        """Synchronous door: validates, stores the command, waits for its result."""
        return f"{self.prefix}.api.{entity}.{verb}"

    def task(self, worker: str) -> str:
        """Where prompts for a worker are published."""
        return f"{self.prefix}.task.{worker}"

    def run(self, worker: WorkerId) -> str:
        """The one open assignment of a worker."""
        return f"{self.prefix}.run.{worker}"

    def report(self, worker: WorkerId, kind: str, task: TaskId | None = None) -> str:
        """A worker's claim."""
        middle = f"{worker}.task.{task}" if task else worker
        return f"{self.prefix}.rep.{middle}.{kind}"

    def output(self, worker: WorkerId, task: TaskId) -> str:
        """An agent's output as it comes."""
        return f"{self.prefix}.out.{worker}.{task}"

    def live_output(self, worker: str, task: str) -> str:
        """The same once more, when it is stored: a server passes on to other accounts only what did not
        come from one. Operators and readers see it under its first name."""
        return f"{self.prefix}.live.{worker}.{task}"

    def heartbeat(self, worker: WorkerId) -> str:
        """Plain message, not stored."""
        return f"{self.prefix}.hb.{worker}"

    def control(self, worker: WorkerId, nonce: str) -> str:
        """Cancel and drain; the nonce keeps other workers from reflecting messages at it."""
        return f"{self.prefix}.ctl.{worker}.{nonce}"

    def ask(self, worker: str, verb: str) -> str:
        """A worker's request; the id in the subject is its identity."""
        return f"{self.prefix}.ask.{worker}.{verb}"

    def clean(self, node: NodeId) -> str:
        """Where a node's manager is asked, by another one, to clean that node."""
        return f"{self.prefix}.node.{node}.clean"

    def exec(self, node: NodeId) -> str:
        """Where a node's manager is asked, by another one, to run a program in a worker of its own."""
        return f"{self.prefix}.node.{node}.exec"

    def asker(self, subject: str) -> WorkerId:
        """The worker that asks on a subject."""
        return WorkerId(subject[len(self.prefix) + len(".ask.") :].partition(".")[0])

    def result(self, command: CommandId) -> str:
        """The answer to a command."""
        return f"{self.prefix}.res.{command}"

    def events_of_task(self, worker: WorkerId, task: TaskId) -> str:
        """Filter of all events of one task."""
        return f"{self.prefix}.evt.task.{worker}.{task}.>"

    def events_of_worker(self, worker: WorkerId) -> str:
        """Filter of all events of one worker, its tasks' not among them."""
        return f"{self.prefix}.evt.worker.{worker}.>"

    def events_of_project(self, project: ProjectId) -> str:
        """Filter of all events of one project."""
        return f"{self.prefix}.evt.project.{project}.>"

    def events(self, *, worker: WorkerId | None = None, task: TaskId | None = None) -> str:
        """Filter of all events; of whatever bears a worker's name, its tasks among it; of one task."""
        if task is not None:
            return self.events_of_task(worker or WorkerId("*"), task)
        return f"{self.prefix}.evt.*.{worker}.>" if worker else f"{self.prefix}.evt.>"

    def event(self, event: Event) -> str:
        """Where an event is published."""
        entity, kind = str(event.__struct_config__.tag).split(".", 1)
        about = ("worker", "task") if entity == "task" else (entity,)
        ids = ".".join(getattr(event, name) for name in about)
        return f"{self.prefix}.evt.{entity}.{ids}.{kind}"

    def changes(self, bucket: str | None = None) -> str:
        """Where the changes of a bucket, or of every republished one, appear as they happen."""
        return f"{self.prefix}.kv.{bucket}.>" if bucket else f"{self.prefix}.kv.>"

    def dead_letter(self, stream: str, consumer: str) -> str:
        """Where messages go that nobody could handle."""
        return f"{self.prefix}.dlq.{stream}.{consumer}"


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A stream as data. Sizes in bytes, times in seconds; 0 means without limit."""

    name: str
    subjects: tuple[str, ...]
    retention: Literal["limits", "workqueue"] = "limits"
    discard: Literal["old", "new"] = "old"
    max_msgs: int = 0
    max_msgs_per_subject: int = 0
    discard_new_per_subject: bool = False
    max_bytes: int = 0
    max_age: float = 0
    max_msg_size: int = 0
    duplicate_window: float = 2 * MINUTE
    deny_delete: bool = False
    deny_purge: bool = False
    republish_to: str | None = None
    """Where its messages appear once more when they are stored; the tail of its one subject is kept."""
    numbered_by: str | None = None
    """Bucket whose keys, or stream whose subjects, hold ids made of this stream's sequences; a stream made
    anew starts above the highest of them."""

    def takes(self, subject: str) -> bool:
        """Whether a message on `subject` would be stored here."""
        return any(_matches(pattern, subject) for pattern in self.subjects)


def _matches(pattern: str, subject: str) -> bool:
    wanted, tokens = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(tokens) <= len(wanted):
            return False
        tokens = tokens[: len(wanted)]
    return len(wanted) == len(tokens) and all(
        w in ("*", t) for w, t in zip(wanted, tokens, strict=True)
    )


@dataclass(frozen=True, kw_only=True)
class Consumer:
    """A durable pull consumer as data."""

    stream: str
    name: str
    filters: tuple[str, ...] = ()
    ack_wait: float = 30.0
    max_deliver: int = 5
    max_ack_pending: int = 64


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """A key-value bucket as data: history 1, direct gets."""

    name: str
    republished: bool = True
    """Whether changes appear on `<prefix>.kv.<bucket>.>`."""
    per_key_ttl: bool = False
    """Whether its entries expire."""
    marker_ttl: float = 0
    """Seconds that the marker of an expired key stays."""

    @property
    def stream(self) -> str:
        """The stream underneath."""
        return f"KV_{self.name}"


CONVERSATION = "conversation"
"""The files of a shared session, as they are handed over and fetched."""

HANDED_OVER: dict[str, int] = {"bundle": 256 * MIB, "patch": 16 * MIB, CONVERSATION: 32 * MIB}
"""What a worker may hand over of a task, with the most bytes of each: commits, uncommitted changes, a conversation."""


LAID_OUT = 256 * MIB
"""The most bytes of one thing that is laid out for a worker."""


@dataclass(frozen=True)
class Objects:
    """Names in the object store. Each begins with the worker's; a dot in a part keeps it apart from tasks."""

    def transcript(self, worker: WorkerId, task: TaskId, attempt: int) -> str:
        """All that an agent wrote in one attempt."""
        return self.handed_over(worker, task, attempt, "transcript")

    def evidence_of_task(self, worker: WorkerId, task: TaskId, attempt: int) -> str:
        """What is known of the end of one attempt."""
        return f"{worker}/{task}/evidence-{attempt}"

    def evidence_of_unit(self, worker: WorkerId, incarnation: int, unit: int) -> str:
        """What is known of the end of the n-th unit of a worker of this name."""
        return f"{worker}/evidence-{incarnation}-{unit}"

    def handed_over(self, worker: WorkerId, task: TaskId, attempt: int, name: str) -> str:
        """What a worker handed over of an attempt."""
        return f"{worker}/{task}/{name}" + (f"-{attempt}" if attempt > 1 else "")

    def all_handed_to(self, worker: WorkerId) -> str:
        """How the names of all that was laid out for a worker begin."""
        return f"{worker}/to.worker/"

    def handed_to(self, worker: WorkerId, name: str) -> str:
        """What a worker may fetch, and no other."""
        return f"{self.all_handed_to(worker)}{name}"


OBJECTS = Objects()


@dataclass(frozen=True, kw_only=True)
class ObjectStore:
    """An object store as data, in the layout that every client knows: chunks, and one meta message a name.

    It refuses what it has no room for; what is in it goes after `max_age` seconds.
    """

    name: str
    max_bytes: int
    max_age: float

    @property
    def stream(self) -> str:
        """The stream underneath."""
        return f"OBJ_{self.name}"

    @property
    def subjects(self) -> tuple[str, str]:
        """Of all chunks and of all meta messages."""
        return self.chunks(">"), f"$O.{self.name}.M.>"

    def chunks(self, put: str) -> str:
        """The chunks of one `put`, oldest first."""
        return f"$O.{self.name}.C.{put}"

    def meta(self, name: str) -> str:
        """What is known of an object: its size, its digest, where its chunks are."""
        return f"$O.{self.name}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"


@dataclass(frozen=True)
class Topology:
    """Everything that must exist on a server before jetcrew works on it."""

    prefix: str = "jetcrew"
    replicas: int = 1
    subjects: Subjects = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "subjects", Subjects(self.prefix))

    @property
    def streams(self) -> tuple[Stream, ...]:
        """Each setting was chosen by trying the alternatives; docs/adr tells which."""
        p = self.prefix
        advisory = "$JS.EVENT.ADVISORY.CONSUMER"
        return (
            Stream(
                name="JC_CMD", subjects=(f"{p}.cmd.>",), retention="workqueue", discard="new",
                max_msgs=100_000, max_bytes=256 * MIB, max_age=7 * DAY, max_msg_size=DOOR_BYTES,
                duplicate_window=10 * MINUTE, numbered_by="JC_RES",
            ),
            Stream(
                name="JC_TASK", subjects=(f"{p}.task.>",), discard="new",
                max_msgs_per_subject=100, discard_new_per_subject=True, max_bytes=GIB,
                max_msg_size=DOOR_BYTES, duplicate_window=10 * MINUTE, numbered_by="KV_jc_task",
            ),
            Stream(
                name="JC_RUN", subjects=(f"{p}.run.*",), retention="workqueue", discard="new",
                max_msgs_per_subject=1, discard_new_per_subject=True, max_bytes=GIB,
                duplicate_window=10 * MINUTE,
            ),
            Stream(name="JC_REP", subjects=(f"{p}.rep.>",), max_bytes=GIB, max_age=7 * DAY),
            Stream(
                name="JC_EVT", subjects=(f"{p}.evt.>",), max_bytes=2 * GIB, max_age=30 * DAY,
                deny_delete=True, deny_purge=True,
            ),
            Stream(
                name="JC_OUT", subjects=(f"{p}.out.>",), max_bytes=2 * GIB, max_age=3 * DAY,
                republish_to=f"{p}.live.>",
            ),
            Stream(
                name="JC_RES", subjects=(f"{p}.res.*",), max_bytes=256 * MIB, max_age=7 * DAY,
                max_msgs_per_subject=1,
            ),
            Stream(
                name="JC_DLQ", subjects=(f"{p}.dlq.>",), max_bytes=512 * MIB, max_age=30 * DAY,
                duplicate_window=60 * MINUTE,
            ),
            Stream(
                name="JC_ADV", retention="workqueue", max_bytes=64 * MIB, max_age=7 * DAY,
                subjects=tuple(f"{advisory}.MAX_DELIVERIES.{s}.>" for s in ("JC_CMD", "JC_TASK", "JC_REP")),
            ),
        )  # fmt: skip

    @property
    def consumers(self) -> tuple[Consumer, ...]:
        """The control plane's own; a worker's is made with the worker (`run_consumer`)."""
        return (
            Consumer(
                stream="JC_CMD", name="mgr",
                filters=tuple(f"{self.prefix}.cmd.{entity}.>" for entity in COMMANDS),
            ),
            Consumer(stream="JC_TASK", name="mgr"),
            Consumer(stream="JC_REP", name="rec", max_ack_pending=256),
            Consumer(stream="JC_ADV", name="dlq", max_deliver=-1),
        )  # fmt: skip

    def run_consumer(self, worker: WorkerId) -> Consumer:
        """A worker's: one assignment at a time, delivered once as far as a broker can."""
        return Consumer(
            stream="JC_RUN", name=worker, filters=(self.subjects.run(worker),), ack_wait=20,
            max_deliver=1, max_ack_pending=1,
        )  # fmt: skip

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """Written by the control plane only."""
        return (
            Bucket(name="jc_worker"),
            Bucket(name="jc_task"),
            Bucket(name="jc_session", per_key_ttl=True, marker_ttl=MINUTE),
            Bucket(name="jc_image"),
            Bucket(name="jc_project"),
            Bucket(name="jc_node", per_key_ttl=True, marker_ttl=MINUTE),
            Bucket(name="jc_lease", republished=False, per_key_ttl=True, marker_ttl=MINUTE),
            Bucket(name="jc_revoked", republished=False),
            Bucket(name="jc_secret", republished=False),
        )  # fmt: skip

    @property
    def objects(self) -> tuple[ObjectStore, ...]:
        """Written by the control plane only."""
        return (ObjectStore(name=ARTIFACTS, max_bytes=2 * GIB, max_age=30 * DAY),)

    def object_store(self, name: str) -> ObjectStore:
        """The object store of that name."""
        return next(store for store in self.objects if store.name == name)


WORKER, TASK, SESSION, IMAGE, PROJECT, NODE, LEASE, REVOKED, SECRET = (
    "jc_worker", "jc_task", "jc_session", "jc_image", "jc_project", "jc_node", "jc_lease",
    "jc_revoked", "jc_secret",
)  # fmt: skip
"""The buckets' names."""

ARTIFACTS = "jc_artifact"
"""The object store: transcripts, evidence, patches."""
