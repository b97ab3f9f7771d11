"""The duty of cleaning one node: by the clock, on command, and when a disk fills up."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import structlog
from msgspec.structs import replace

from contracts.bus import Message
from contracts.codec import decode
from contracts.errors import BusUnavailable, EngineRefused, JetcrewError, NotThere
from contracts.events import (
    Event,
    ImageRemoved,
    NodeCleaned,
    NodeDiskFreed,
    NodeDiskFull,
    NodeKeptUnknown,
)
from contracts.ids import NodeId, nonce
from contracts.image import Cleaned, CleanUp, Judged
from contracts.node import NodeRecord
from contracts.results import Result
from contracts.topology import NODE
from services.worker_manager.cleaning import judging
from services.worker_manager.cleaning.removing import (
    remove_image,
    remove_thing,
    sweep_directories,
)
from services.worker_manager.cleaning.retention import Retention
from services.worker_manager.cleaning.seen import Policy, Seen, SeenImage, Thing, Verdict
from services.worker_manager.cleaning.survey import Ground, look, look_at_images, records
from services.worker_manager.images.stored import ImageOnDisk
from services.worker_manager.images.used import image_id
from services.worker_manager.settings import CleaningSettings

log = structlog.get_logger()

LISTED = 500
"""Things of each list that an answer holds, whatever the number of nodes: it is stored as one message."""
AGAIN = 60.0
"""Seconds between two cleanings while a disk is full."""
ANSWER_WITHIN = 600.0
"""Seconds that another node may take to clean itself."""

Full = Callable[[], Awaitable[str | None]]


class Cleaning:
    """Cleans its own node, one cleaning at a time, and asks other nodes to clean theirs."""

    def __init__(
        self,
        ground: Ground,
        settings: CleaningSettings,
        full: Full,
        tick: float,
        retention: Retention,
    ) -> None:
        self._retention = retention
        self._ground = ground
        self._settings = settings
        self._full = full
        self._tick = tick
        self._node = NodeId(ground.node)
        self._alone = asyncio.Lock()
        self._told: dict[str, str] = {}

    async def no_room(self) -> str | None:
        """Why no worker can be made for want of disk, here or on another node; None when one can."""
        why = await self._full()
        if why is None or await self._others():
            return None
        return why

    async def _others(self) -> set[NodeId]:
        known = await self._ground.bus.bucket(NODE, NodeRecord).list()
        return set(map(NodeId, known)) - {self._node}

    # -- when -------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """By the clock, and while a disk is full, until `stop`."""
        due, was_full = time.monotonic() + min(self._settings.every, AGAIN), False
        while not stop.is_set():
            full = await self._full()
            if (full is not None) != was_full:
                was_full = full is not None
                await self._tell_of_disk(full)
                due = time.monotonic() if was_full else due
            if time.monotonic() >= due:
                await self._by_itself(pressed=was_full)
                due = time.monotonic() + (
                    min(self._settings.every, AGAIN) if was_full else self._settings.every
                )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(self._tick, self._settings.every)):
                    await stop.wait()

    async def _by_itself(self, *, pressed: bool) -> None:
        command = CleanUp(older_than=0, keep=0) if pressed else CleanUp()
        try:
            await self.clean(command, enough=self._enough if pressed else None, whole=True)
        except JetcrewError as error:
            log.warning("cleaning.postponed", error=str(error))
        except Exception:
            log.exception("cleaning.failed")

    async def _enough(self) -> bool:
        return await self._full() is None

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Answer other managers that want this node cleaned, while the block lasts."""
        bus = self._ground.bus
        async with bus.serve(bus.subjects.clean(self._node), self._asked):
            yield

    async def _asked(self, message: Message) -> Cleaned:
        return await self.clean(decode(message.data, CleanUp))

    async def carry_out(self, command: CleanUp) -> Result:
        """The command, on the node it names or on all there are.

        Raises:
            NotThere: no such node answers.
            BusUnavailable
        """
        if command.node is not None:
            cleaned = [await self._on(NodeId(command.node), command)]
        else:
            cleaned = await self._everywhere(command)
        most = LISTED // len(cleaned)
        return Result(detail=_summary(cleaned), record=[_short(one, most) for one in cleaned])

    async def _everywhere(self, command: CleanUp) -> list[Cleaned]:
        found: list[Cleaned] = []
        for node in sorted({self._node} | await self._others()):
            try:
                found.append(await self._on(node, command, whole=node == self._node))
            except NotThere as error:
                found.append(Cleaned(node=node, dry_run=command.dry_run, doubt=str(error)))
        return found

    async def _on(self, node: NodeId, command: CleanUp, *, whole: bool = False) -> Cleaned:
        if node == self._node:
            return await self.clean(command, whole=whole)
        subject = self._ground.bus.subjects.clean(node)
        try:
            return await self._ground.bus.ask(subject, command, Cleaned, timeout=ANSWER_WITHIN)
        except BusUnavailable:
            raise NotThere(f"no node {node!r} answers", field="$.node") from None

    # -- what -------------------------------------------------------------------------------------

    async def clean(
        self,
        command: CleanUp,
        enough: Callable[[], Awaitable[bool]] | None = None,
        *,
        whole: bool = False,
    ) -> Cleaned:
        """Clean this node, and with `whole` the crew's records. `enough` is asked before each image and ends
        their removal."""
        async with self._alone:
            policy = self._policy(command)
            try:
                seen = await look(self._ground)
            except (BusUnavailable, EngineRefused) as error:
                seen = Seen(node=self._node, workers=None, doubt=str(error))
            verdicts = judging.judge(seen, policy, self._ground.crew.clock())
            why = judging.doubt(seen)
            if not command.dry_run:
                verdicts = await self._removed(verdicts, policy, enough)
                await self._forget_images(seen)
            verdicts += await self._records(seen, whole=whole, dry_run=command.dry_run)
            cleaned = self._answer(verdicts, command, why)
            await self._tell(cleaned, verdicts)
            log.info(
                "node.cleaned",
                dry_run=command.dry_run,
                removed=_counted(cleaned.removed),
                kept=len(cleaned.kept),
                doubt=why,
            )
            return cleaned

    async def _records(self, seen: Seen, *, whole: bool, dry_run: bool) -> list[Verdict]:
        """Those that ended long ago; what cannot be told now can wait."""
        try:
            return await self._retention.clean(seen, whole=whole, dry_run=dry_run)
        except JetcrewError as error:
            log.warning("retention.postponed", error=str(error))
            return []

    def _policy(self, command: CleanUp) -> Policy:
        ours = self._settings
        return Policy(
            older_than=ours.older_than if command.older_than is None else command.older_than,
            keep=ours.keep if command.keep is None else command.keep,
            keep_files=ours.keep_files,
            settle=ours.settle,
        )

    async def _removed(
        self,
        verdicts: Sequence[Verdict],
        policy: Policy,
        enough: Callable[[], Awaitable[bool]] | None,
    ) -> list[Verdict]:
        """Carry the verdicts out; those that turned out otherwise are kept, and say why."""
        await asyncio.to_thread(sweep_directories, self._ground.workers)
        done: list[Verdict] = []
        for verdict in verdicts:
            what = verdict.what
            if not verdict.remove:
                if isinstance(what, SeenImage):
                    await self._note(what, verdict)
                done.append(verdict)
                continue
            try:
                if isinstance(what, SeenImage):
                    if enough is not None and await enough():
                        done.append(_spared(verdict, "there is room enough now"))
                        continue
                    now = await self._remove_image(what, policy)
                else:
                    now = await self._remove(what, policy)
            except (JetcrewError, OSError) as error:
                now = _spared(verdict, f"it could not be removed: {error}")
            done.append(now)
        return done

    async def _remove(self, thing: Thing, policy: Policy) -> Verdict:
        """One thing, if its worker's record still says that it may go."""
        if thing.worker is None:
            workers, why = await records(self._ground.crew)
        else:
            held = await self._ground.crew.workers.bucket.get(thing.worker)
            workers, why = {thing.worker: held.value} if held else {}, None
        seen = Seen(node=self._node, workers=workers, doubt=why, things=(thing,))
        [verdict] = judging.judge(seen, policy, self._ground.crew.clock())
        if verdict.remove:
            await remove_thing(self._ground, thing)
            log.info("leftover.removed", kind=thing.kind, name=thing.name, why=verdict.why)
        return verdict

    async def _remove_image(self, image: SeenImage, policy: Policy) -> Verdict:
        """One image, if still nobody needs it, while nobody can begin to."""
        async with self._ground.images.still():
            seen = await look_at_images(self._ground)
            verdicts = judging.judge(seen, policy, self._ground.crew.clock())
            found = [
                v for v in verdicts if isinstance(v.what, SeenImage) and v.what.tag == image.tag
            ]
            if not found:
                return Verdict(what=image, remove=True, why="it is gone")
            if found[0].remove:
                await remove_image(self._ground, image)
        if found[0].remove:
            await self._publish(
                ImageRemoved(
                    at=self._ground.crew.clock(),
                    image=image_id(image.tag),
                    node=self._node,
                    reason=found[0].why,
                    size_bytes=image.size_bytes,
                )
            )
        return found[0]

    async def _note(self, image: SeenImage, verdict: Verdict) -> None:
        """An image in use is not old; one of ours without a record gets one and ages from now on."""
        if not image.checked:
            return
        if (verdict.in_use and (image.ours or image.used_at)) or (
            image.ours and image.used_at is None
        ):
            await self._ground.used.note(_on_disk(image))

    async def _forget_images(self, seen: Seen) -> None:
        """Drop the records of images that somebody else removed."""
        if not seen.engine or seen.at is None:
            return
        there = {image_id(image.tag) for image in seen.images}
        for image, held in (await self._ground.used.list()).items():
            if image not in there and (held.at is None or held.at < seen.at):
                await self._ground.used.forget(image, held.revision)

    # -- what is told -----------------------------------------------------------------------------

    def _answer(self, verdicts: Sequence[Verdict], command: CleanUp, why: str | None) -> Cleaned:
        removed = [v.judged() for v in verdicts if v.remove]
        kept = [v.judged() for v in verdicts if not v.remove and _worth_telling(v)]
        kept.sort(key=lambda judged: (not judged.unknown, judged.kind != "image"))
        whole = Cleaned(
            node=self._node,
            dry_run=command.dry_run,
            removed=removed,
            kept=kept,
            removed_bytes=sum(judged.size_bytes for judged in removed),
            doubt=why,
        )
        return _short(whole, LISTED)

    async def _tell(self, cleaned: Cleaned, verdicts: Sequence[Verdict]) -> None:
        """Events: of what was removed, and of what somebody should look at, once as long as it stays so."""
        at = self._ground.crew.clock()
        if cleaned.removed and not cleaned.dry_run:
            await self._publish(
                NodeCleaned(
                    at=at,
                    node=self._node,
                    removed=_counted(cleaned.removed),
                    removed_bytes=cleaned.removed_bytes,
                )
            )
        unknown = dict(judging.told_as_doubtful(verdicts))
        if cleaned.doubt is not None:
            unknown[""] = cleaned.doubt
        if unknown and unknown != self._told:
            things = [name for name in unknown if name]
            reason = cleaned.doubt or unknown[things[0]]
            await self._publish(
                NodeKeptUnknown(at=at, node=self._node, reason=reason, things=things[:100])
            )
        self._told = unknown

    async def _tell_of_disk(self, full: str | None) -> None:
        at = self._ground.crew.clock()
        log.warning("disk.full", reason=full) if full else log.info("disk.freed")
        await self._publish(
            NodeDiskFull(at=at, node=self._node, reason=full)
            if full
            else NodeDiskFreed(at=at, node=self._node)
        )

    async def _publish(self, event: Event) -> None:
        """An event that cannot be published is lost; what it tells of is in the log, too."""
        with contextlib.suppress(JetcrewError):
            bus = self._ground.bus
            await bus.publish(bus.subjects.event(event), event, id=nonce(), budget=5)


def _short(cleaned: Cleaned, most: int) -> Cleaned:
    """With so many things in each list."""
    listed = replace(cleaned, removed=cleaned.removed[:most], kept=cleaned.kept[:most])
    left_off = max(0, len(cleaned.removed) - most) + max(0, len(cleaned.kept) - most)
    return replace(listed, unlisted=cleaned.unlisted + left_off)


def _summary(cleaned: Sequence[Cleaned]) -> str:
    count = sum(len(one.removed) for one in cleaned)
    done = "would be removed" if any(one.dry_run for one in cleaned) else "removed"
    doubts = [f"{one.node}: {one.doubt}" for one in cleaned if one.doubt]
    return "; ".join([f"{count} {done}", *doubts])


def _spared(verdict: Verdict, why: str) -> Verdict:
    """The same thing, kept after all."""
    return Verdict(what=verdict.what, remove=False, why=why)


def _worth_telling(verdict: Verdict) -> bool:
    """What live workers have is what one expects."""
    return verdict.unknown or isinstance(verdict.what, SeenImage) or verdict.why not in _EXPECTED


_EXPECTED = {"it runs", "its worker lives", "workers of this node use it"}


def _counted(judged: Sequence[Judged]) -> dict[str, int]:
    return dict(Counter(one.kind for one in judged))


def _on_disk(image: SeenImage) -> ImageOnDisk:
    return ImageOnDisk(
        tag=image.tag,
        id=image.id,
        kind="worker-base" if image.base else "worker-image",
        agent=image.agent,
        capabilities=tuple(sorted(image.capabilities)),
        size_bytes=image.size_bytes,
        created_at=image.made_at.timestamp(),
    )
