"""What may be removed. Pure: from what there is, what the records say and the time, with a reason for each.

Removing is allowed where a record says that it is over. Whatever no record tells of stays, and where
something runs that no record knows, the records are not to be trusted and everything stays.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Literal

from contracts.session import SHARED
from contracts.worker import WorkerRecord
from services.worker_manager.cleaning.seen import Policy, Seen, SeenImage, Thing, Verdict
from services.worker_manager.images.used import digest

Standing = Literal["live", "over", "kept", "unknown"]
FILES = frozenset({"volume", "directory", "session"})
"""What `keep_workspace` keeps, and what a failed worker leaves to be looked at."""
CHECK, WARM, NETWORK = "image-check", "warm", "network"
"""Purposes of what belongs to no worker."""


def judge(seen: Seen, policy: Policy, now: datetime) -> list[Verdict]:
    """A verdict on everything seen; what goes first comes first."""
    if seen.workers is None:
        why = f"the workers' records cannot be read: {seen.doubt}"
        everything: list[Thing | SeenImage] = [*seen.things, *seen.images]
        return [_kept(what, why) for what in everything]
    verdicts = [judge_thing(thing, seen, policy, now) for thing in seen.things]
    verdicts += judge_images(seen, policy, now)
    if doubt(seen) is None:
        return verdicts
    return [_kept(v.what, DOUBT, unknown=v.unknown) if v.remove else v for v in verdicts]


DOUBT = "something runs that no record knows: the records are not complete"


def doubt(seen: Seen) -> str | None:
    """Why nothing at all may be removed; None where the records can be trusted."""
    if seen.workers is None:
        return f"the workers' records cannot be read: {seen.doubt}"
    strays = [
        f"{thing.kind} {thing.name}"
        for thing in seen.things
        if thing.live and thing.worker is not None and thing.worker not in seen.workers
    ]
    return f"{DOUBT}: {', '.join(strays[:5])}" if strays else None


def standing(record: WorkerRecord | None) -> Standing:
    """What a worker's record says of all that is left of it."""
    if record is None:
        return "unknown"
    if not record.finished:
        return "live"
    return "over" if record.state == "stopped" and not record.keep_workspace else "kept"


def judge_thing(thing: Thing, seen: Seen, policy: Policy, now: datetime) -> Verdict:
    """A verdict on one thing that is no image."""
    assert seen.workers is not None
    if thing.kind == "revocation":
        return _removed(thing, "what it revoked has expired")
    if thing.worker is None:
        return _of_nobody(thing, seen, policy, now)
    record = seen.workers.get(thing.worker)
    stands = standing(record)
    if thing.live:
        if stands != "live":
            return _kept(thing, f"it runs, and its worker is {_said(record)}", unknown=True)
        if not _is_this(thing, record, seen.node):
            return _kept(thing, "it runs, and its worker is another by now", unknown=True)
        return _kept(thing, "it runs")
    if record is None:
        if thing.kind in {"secret", "session"}:  # a secret may come before its worker
            return _kept(thing, f"there is no worker {thing.worker}")
        return _kept(thing, "no record knows its worker", unknown=True)
    if _young(thing.made_at, policy, now):
        return _kept(thing, f"it is younger than {policy.settle:g} s")
    if stands == "live":
        return _of_living(thing, record, seen.node)
    if _young(record.changed_at, policy, now):
        return _kept(thing, f"its worker ended less than {policy.settle:g} s ago")
    if _later(thing, record):
        return _kept(thing, "it came after its worker had ended: the next of this name may want it")
    return _of_ended(thing, record, stands, policy, now)


def judge_images(seen: Seen, policy: Policy, now: datetime) -> list[Verdict]:
    """Verdicts on the images, the one that was not used for longest first."""
    assert seen.workers is not None
    living = [r for r in seen.workers.values() if standing(r) == "live"]
    ranked = sorted(
        (image for image in seen.images if image.checked and image.used_at is not None),
        key=lambda image: (image.used_at, image.tag),
        reverse=True,
    )
    newest = {image.tag for image in ranked[: policy.keep]}
    verdicts = [
        _image(image, seen, living, newest=image.tag in newest, policy=policy, now=now)
        for image in seen.images
    ]
    return sorted(verdicts, key=lambda v: _last_use(v.what))


def _image(
    image: SeenImage, seen: Seen, living: list[WorkerRecord], *,
    newest: bool, policy: Policy, now: datetime,
) -> Verdict:  # fmt: skip
    if (why := needed(image, seen, living)) is not None:
        return Verdict(what=image, remove=False, why=why, in_use=True)
    if not image.ours:
        return _kept(image, "this crew did not build it here")
    if not image.checked:
        if _young(image.made_at, policy, now):
            return _kept(image, f"it is younger than {policy.settle:g} s")
        return _removed(image, "a build that broke off left it")
    if image.used_at is None:
        return _kept(image, "no record says when it was used; from now on one does")
    if newest:
        return _kept(image, f"it is among the {policy.keep} used last")
    if now - image.used_at < timedelta(seconds=policy.older_than):
        return _kept(image, f"it was used less than {policy.older_than:g} s ago")
    return _removed(image, f"no worker has used it since {image.used_at:%Y-%m-%d %H:%M}")


def needed(image: SeenImage, seen: Seen, living: Iterable[WorkerRecord]) -> str | None:
    """Who uses an image, or is about to; None when nobody does."""
    if image.id in seen.images_in_use:
        return "a container uses it"
    if digest(image.tag) in seen.building or (image.base and seen.building):
        return "a build needs it"
    for record in living:
        if record.image == image.tag:
            return f"worker {record.name} has it"
        if record.image is None and record.runtime != "process" and _wants(record, image):
            return f"worker {record.name} is about to have it"
    return None


def _wants(record: WorkerRecord, image: SeenImage) -> bool:
    return image.base or (
        record.spec.agent == image.agent
        and frozenset(record.spec.capabilities) == image.capabilities
    )


def _of_nobody(thing: Thing, seen: Seen, policy: Policy, now: datetime) -> Verdict:
    if thing.purpose == SHARED:
        return _of_owner(thing, policy, now)
    if thing.live:
        return _kept(thing, "it runs")
    if _young(thing.made_at, policy, now):
        return _kept(thing, f"it is younger than {policy.settle:g} s")
    if thing.purpose == CHECK:
        if digest(thing.image) in seen.building:
            return _kept(thing, "a build needs it")
        return _removed(thing, "the check of an image left it")
    if thing.kind == NETWORK:
        assert seen.workers is not None
        if any(standing(r) == "live" and _here(r, seen.node) for r in seen.workers.values()):
            return _kept(thing, "workers of this node use it")
        if any(other.kind == "container" for other in seen.things):
            return _kept(thing, "containers are left that may be on it")
        return _removed(thing, "no worker of this node is left")
    if thing.purpose == WARM:
        return _kept(thing, "it is the warm containers' own to sweep")
    return _kept(thing, "no label says whose it is", unknown=True)


def _of_owner(thing: Thing, policy: Policy, now: datetime) -> Verdict:
    """A shared session."""
    if thing.live:
        return _kept(thing, "a task is in it")
    if not thing.over:
        return _kept(thing, "a later task may go on with it")
    if _young(thing.made_at, policy, now):
        return _kept(thing, f"it is younger than {policy.settle:g} s")
    return _removed(thing, "it is over: no task goes on with it any more")


def _of_living(thing: Thing, record: WorkerRecord, node: str) -> Verdict:
    if thing.kind != "container":
        return _kept(thing, "its worker lives")
    if thing.incarnation is not None and thing.incarnation < record.incarnation:
        return _removed(thing, f"incarnation {thing.incarnation} of its worker left it")
    if not _is_this(thing, record, node):
        return _kept(thing, f"its worker is on node {record.node}", unknown=True)
    return _kept(thing, "its worker lives")


def _is_this(thing: Thing, record: WorkerRecord | None, node: str) -> bool:
    """Whether a unit can be the one that the record of a living worker speaks of."""
    return (
        record is None
        or thing.incarnation is None
        or (thing.incarnation == record.incarnation and _here(record, node))
    )


def _of_ended(
    thing: Thing, record: WorkerRecord, stands: Standing, policy: Policy, now: datetime
) -> Verdict:
    if stands == "over" or not (thing.kind in FILES or _own_secret(thing, record)):
        return _removed(thing, f"its worker is {_said(record)}")
    if policy.keep_files is None:
        return _kept(thing, f"its worker is {_said(record)}: kept for a later one of its name")
    if now - record.changed_at < timedelta(seconds=policy.keep_files):
        return _kept(thing, f"its worker is {_said(record)}: kept for {policy.keep_files:g} s")
    return _removed(thing, f"its worker is {_said(record)} for longer than {policy.keep_files:g} s")


def _own_secret(thing: Thing, record: WorkerRecord) -> bool:
    """A failed worker's: it has not been deleted, which is when they are forgotten."""
    return thing.kind == "secret" and record.state == "failed"


def _later(thing: Thing, record: WorkerRecord) -> bool:
    return thing.made_at is not None and thing.made_at > record.changed_at


def _here(record: WorkerRecord, node: str) -> bool:
    return record.node is None or record.node == node


def _young(at: datetime | None, policy: Policy, now: datetime) -> bool:
    return at is not None and now - at < timedelta(seconds=policy.settle)


def _last_use(what: Thing | SeenImage) -> float:
    used = what.used_at or what.made_at if isinstance(what, SeenImage) else None
    return used.timestamp() if used else 0.0


def _said(record: WorkerRecord | None) -> str:
    if record is None:
        return "not known"
    return f"{record.state}, its files kept" if record.keep_workspace else record.state


def _kept(what: Thing | SeenImage, why: str, *, unknown: bool = False) -> Verdict:
    return Verdict(what=what, remove=False, why=why, unknown=unknown)


def _removed(what: Thing | SeenImage, why: str) -> Verdict:
    return Verdict(what=what, remove=True, why=why)


def told_as_doubtful(verdicts: Iterable[Verdict]) -> Mapping[str, str]:
    """What somebody should look at: kind and name of each, and why."""
    return {
        f"{judged.kind} {judged.name}": judged.why
        for judged in (verdict.judged() for verdict in verdicts if verdict.unknown)
    }
