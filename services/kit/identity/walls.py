"""The openings in the walls between accounts: what JETCREW exports, and who imports it.

An account is the only wall a bus has. Inside one, whoever may send a request may also name any subject
for the answer, and so write there. Across accounts an answer can only come back to the one who asked.
Everybody but the control plane is therefore outside, and reaches in through these openings.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from contracts.ids import TaskId, WorkerId
from contracts.topology import INBOX, SESSION, Topology

Outside = Literal["OPERATORS", "READERS", "WORKERS"]

OPERATOR_INBOXES = f"{INBOX}.ops"
"""Where answers to operators arrive: one token more is the operator's name."""
_API = "$JS.API"
_EVERY = WorkerId("*")
_SELF = WorkerId("{{name()}}")
"""The server puts the user's own name here."""


@dataclass(frozen=True, kw_only=True)
class Opening:
    """One export of JETCREW."""

    subject: str
    kind: Literal["service", "stream"] = "service"
    many: bool = False
    """Whether one request may get several messages in answer."""
    to: tuple[Outside, ...]
    narrowed: tuple[tuple[Outside, str], ...] = ()
    """Accounts that import less than the whole, with what they import."""
    renamed: str | None = None
    """What it is called outside; `$1` stands for what its first wildcard matched."""

    def seen_by(self, account: Outside) -> str | None:
        """The subject that an account imports, if it imports anything here."""
        return dict(self.narrowed).get(account, self.subject if account in self.to else None)


def openings(topology: Topology) -> tuple[Opening, ...]:
    """All of them. Exports of services must not overlap: such an account is invalid, and nobody gets in."""
    return (*_doors(topology), *_reads(topology), *_workers(topology), *_live(topology))


def _doors(topology: Topology) -> Iterator[Opening]:
    """What operators ask for."""
    stored = _subjects(topology, "JC_CMD", "JC_TASK")
    yield from _services([*stored, topology.subjects.door("*", ">")], "OPERATORS")
    yield from _services(["$SRV.>"], "OPERATORS", many=True)


def _reads(topology: Topology) -> Iterator[Opening]:
    """What operators and readers may look at. Buckets that hold secrets are named nowhere here, and there
    is no wildcard that could stand for them."""
    watched = [
        *(bucket.stream for bucket in topology.buckets if bucket.republished),
        *(store.stream for store in topology.objects),
    ]
    logs = ["JC_EVT", "JC_OUT"]
    # Of dead letters both see all, since a direct get is of whole messages; that the API lists them without
    # their bodies keeps these from its clients. To send one again is a command, and the manager's to do.
    shown = [*logs, "JC_RES", "JC_DLQ", *watched]
    session = f"KV_{SESSION}"
    assert session in shown
    for stream in shown:
        yield Opening(subject=f"{_API}.DIRECT.GET.{stream}", many=True, to=("OPERATORS", "READERS"))
        yield Opening(
            subject=f"{_API}.DIRECT.GET.{stream}.>",
            many=True,
            to=("OPERATORS", "READERS"),
            narrowed=(("WORKERS", f"{_API}.DIRECT.GET.{_sessions_of('>')}"),)
            if stream == session
            else (),
        )
    # An account that does not import this gets all of the API from the server instead, which then answers
    # that the account has no JetStream, in a race with the answers of JETCREW.
    yield Opening(subject=f"{_API}.INFO", to=("OPERATORS", "READERS", "WORKERS"))
    yield Opening(subject=f"{_API}.STREAM.INFO.*", to=("OPERATORS", "READERS"))
    queues = ["JC_TASK", "JC_CMD"]
    yield from _services(
        [f"{_API}.DIRECT.GET.{stream}{rest}" for stream in queues for rest in ("", ".>")],
        "OPERATORS",
        many=True,
    )
    yield from _services(
        [
            f"{_API}.STREAM.NAMES",
            f"{_API}.STREAM.LIST",
            *(f"{_API}.STREAM.MSG.GET.{stream}" for stream in (*shown, *queues)),
            f"{_API}.CONSUMER.NAMES.*",
            f"{_API}.CONSUMER.LIST.*",
            f"{_API}.CONSUMER.INFO.*.*",
            *(
                f"{_API}.CONSUMER.CREATE.{stream}{rest}"
                for stream in (*logs, *watched)
                for rest in ("", ".>")
            ),
            *(f"{_API}.CONSUMER.DELETE.{stream}.*" for stream in watched),
            *(f"$JS.FC.{stream}.>" for stream in watched),
        ],
        "OPERATORS",
    )
    yield from _services(
        [f"{_API}.CONSUMER.MSG.NEXT.{stream}.*" for stream in logs], "OPERATORS", many=True
    )


def _workers(topology: Topology) -> Iterator[Opening]:
    """What workers send and ask; a worker's own credential narrows each to its name."""
    subjects = topology.subjects
    yield from _services(
        [
            *_subjects(topology, "JC_REP", "JC_OUT"),
            subjects.heartbeat(_EVERY),
            subjects.ask("*", ">"),
            "$JS.ACK.JC_RUN.>",
        ],
        "WORKERS",
    )
    yield from _services([f"{_API}.CONSUMER.MSG.NEXT.JC_RUN.*"], "WORKERS", many=True)
    yield Opening(subject=subjects.control(_EVERY, "*"), kind="stream", to=("WORKERS",))


def _live(topology: Topology) -> Iterator[Opening]:
    """What appears outside as it happens."""
    subjects = topology.subjects
    output = set(_subjects(topology, "JC_OUT"))
    for subject in live_subjects(topology):
        if subject not in output:
            yield Opening(subject=subject, kind="stream", to=("OPERATORS", "READERS"))
    yield Opening(
        subject=subjects.live_output("*", "*"),
        kind="stream",
        to=("OPERATORS", "READERS"),
        renamed=subjects.output(WorkerId("$1"), TaskId("$2")),
    )
    # Watches of the stock CLI are pushed to its inbox from inside JETCREW.
    yield Opening(subject=f"{OPERATOR_INBOXES}.>", kind="stream", to=("OPERATORS",))


def live_subjects(topology: Topology) -> tuple[str, ...]:
    """What operators and readers may subscribe to, and nobody outside may publish."""
    return (*_subjects(topology, "JC_EVT", "JC_OUT", "JC_RES"), topology.subjects.changes())


@dataclass(frozen=True)
class Permissions:
    """What the users of one scoped signing key may do; `{{name()}}` stands for the user's name."""

    publish: tuple[str, ...] = ()
    """Allowed; empty means everything that is not denied."""
    publish_not: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()


def permissions(topology: Topology, account: Outside) -> Permissions:
    """The rights of one user of an account outside.

    Operators and readers are refused by what is not imported, which their tools report at once; what is
    denied to a user they report after a timeout. They are denied only to fake live messages.
    """
    live = live_subjects(topology)
    if account == "OPERATORS":
        return Permissions(publish_not=live, subscribe=(*live, f"{OPERATOR_INBOXES}.{_SELF}.>"))
    if account == "READERS":
        return Permissions(publish_not=live, subscribe=(*live, f"{INBOX}.{_SELF}.>"))
    return _worker_permissions(topology)


def _worker_permissions(topology: Topology) -> Permissions:
    subjects, me = topology.subjects, _SELF
    return Permissions(
        publish=(
            f"{_API}.CONSUMER.MSG.NEXT.JC_RUN.{me}",
            f"$JS.ACK.JC_RUN.{me}.>",
            subjects.report(me, ">"),
            subjects.output(me, TaskId("*")),
            subjects.heartbeat(me),
            subjects.ask(me, "{{tag(verb)}}"),
            f"{_API}.DIRECT.GET.{_sessions_of(me)}.*",
        ),
        subscribe=(f"{INBOX}.{me}.>", subjects.control(me, "{{tag(ctl)}}")),
    )


def _sessions_of(worker: str) -> str:
    """Sessions in a direct get, the worker being the first token of their keys."""
    return f"KV_{SESSION}.$KV.{SESSION}.{worker}"


def _services(subjects: Iterable[str], to: Outside, *, many: bool = False) -> Iterator[Opening]:
    for subject in subjects:
        yield Opening(subject=subject, to=(to,), many=many)


def _subjects(topology: Topology, *names: str) -> Iterator[str]:
    for stream in topology.streams:
        if stream.name in names:
            yield from stream.subjects
