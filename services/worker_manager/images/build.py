"""Worker images on an engine: found by tag, or built, checked and then tagged."""

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import docker
import structlog

from contracts.errors import EngineRefused, EngineUnavailable, ImageBuildFailed, JetcrewError
from contracts.ids import nonce
from contracts.worker import Limits
from services.kit.catalog import Catalog, packaged_images
from services.kit.tasks import OwnsTasks
from services.worker_manager.images.context import archive, base_files, wrapper_sources
from services.worker_manager.images.recipe import (
    Check,
    Recipe,
    base_recipe,
    needs_node,
    worker_recipe,
)
from services.worker_manager.images.stored import UNCHECKED, ImageOnDisk, stored_images
from services.worker_manager.runtimes.engine import Engine, NotFound, absent_is_fine
from services.worker_manager.runtimes.profile import HOME, UID, WORKSPACE, hardened

CHECK_TIMEOUT = 300
"""Seconds for all checks of an image together."""
CHECK_LIMITS = Limits(memory_mb=2048, cpus=2.0, pids=512)
TAIL_LINES = 60

Progress = Callable[[int, int, str], Awaitable[None]]
"""Told of each step of a build as it begins: its number, how many there are, and its text."""
Lease = Callable[[str], AbstractAsyncContextManager[object]]
"""Held around the build of a tag, for managers that share an engine."""

_STEP = re.compile(r"Step (\d+)/(\d+) : (.*)", re.DOTALL)
log = structlog.get_logger()


async def untold(step: int, steps: int, text: str) -> None:
    """Progress that nobody wants to know."""


@dataclass
class _Build:
    """A build in progress: any number may follow it, and it goes on when none does."""

    steps: list[tuple[int, int, str]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    done: bool = False
    error: Exception | None = None

    async def note(self, step: int, steps: int, text: str) -> None:
        self.steps.append((step, steps, text))
        self._wake()

    def finish(self, error: Exception | None) -> None:
        self.done, self.error = True, error
        self._wake()

    async def follow(self, progress: Progress) -> None:
        told = 0
        while True:
            while told < len(self.steps):
                told += 1
                await progress(*self.steps[told - 1])
            if self.done:
                break
            await self.changed.wait()
        if self.error is not None:
            raise self.error

    def _wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class Images(OwnsTasks):
    """The worker images of one engine, as an async context whose end abandons builds in progress.

    There is one build of a tag at a time; whoever asks for it meanwhile follows that one.
    """

    def __init__(
        self,
        engine: Engine,
        catalog: Catalog,
        *,
        base_image: str = "python:3.12-slim",
        node_image: str = "node:22-slim",
        lease: Lease = lambda _tag: contextlib.nullcontext(),
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """`labels` say whose what is built here is."""
        super().__init__()
        self._engine = engine
        self._catalog = catalog
        self._base_image = base_image
        self._node_image = node_image
        self._lease = lease
        self._labels = dict(labels or {})
        self._still = asyncio.Lock()
        self._sources: dict[str, bytes] | None = None
        self._builds: dict[str, _Build] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def _let_go(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def ensure(
        self, agent: str, capabilities: Sequence[str], progress: Progress = untold
    ) -> str:
        """The tag of the image for an agent with these capabilities, built first where it is missing.
        Cancelling returns at once; the build goes on, for the next who asks.

        Raises:
            InvalidMessage: no such agent or capability.
            ImageBuildFailed: names the step.
            EngineUnavailable: the engine does not answer, or went away.
        """
        base, recipe = await self._recipes(agent, capabilities, progress)
        async with self._still:
            there = await self._present(recipe.tag)
        if not there:
            await self._join(recipe, base, progress)
        return recipe.tag

    async def tag(self, agent: str, capabilities: Sequence[str]) -> str:
        """The tag that `ensure` would return."""
        return (await self.tags(agent, capabilities))[0]

    async def tags(self, agent: str, capabilities: Sequence[str]) -> tuple[str, str]:
        """The tag that `ensure` would return, and that of its base; pulls the images these start from where
        they are missing."""
        base, recipe = await self._recipes(agent, capabilities, untold)
        return recipe.tag, base.tag

    async def stored(self, tag: str | None = None) -> list[ImageOnDisk]:
        """What the engine has, or has under this tag; see `stored_images`."""
        return await stored_images(self._engine, tag)

    @property
    def building(self) -> frozenset[str]:
        """Tags of the builds in progress."""
        return frozenset(self._builds)

    @contextlib.asynccontextmanager
    async def still(self) -> AsyncIterator[None]:
        """While this is held nobody learns that an image is there: for who looks whether it is needed, and
        removes it."""
        async with self._still:
            yield

    async def remove(self, tag: str) -> None:
        """Remove an image; no error when it is gone.

        Raises:
            EngineRefused: a container uses it.
        """

        def remove(client: docker.DockerClient) -> None:
            with absent_is_fine():
                client.api.remove_image(tag)

        await self._engine.call(remove)

    async def list(self) -> list[ImageOnDisk]:
        """All checked worker images, of any crew."""
        found = await stored_images(self._engine)
        return [image for image in found if image.checked and image.kind == "worker-image"]

    async def _recipes(
        self, agent: str, capabilities: Sequence[str], progress: Progress
    ) -> tuple[Recipe, Recipe]:
        chosen = self._catalog.agent(agent)
        tools = [
            self._catalog.capability(name, field=f"$.capabilities[{index}]")
            for index, name in enumerate(capabilities)
        ]
        agent_file = await asyncio.to_thread(self._catalog.agent_file(agent).read_bytes)
        if self._sources is None:  # of this process's own version, whatever is installed meanwhile
            self._sources = await asyncio.to_thread(wrapper_sources)
        sources = self._sources
        dockerfile, requirements = await asyncio.to_thread(base_files, packaged_images())
        base_id = await self._image_id(self._base_image, progress)
        base = base_recipe(dockerfile, requirements, base_image=self._base_image, base_id=base_id)
        node_id = None
        if needs_node(chosen, tools):
            node_id = await self._image_id(self._node_image, progress)
        recipe = worker_recipe(
            base, chosen, agent_file, tools, sources, node_image=self._node_image, node_id=node_id
        )
        return base, recipe

    async def _join(self, recipe: Recipe, base: Recipe | None, progress: Progress) -> None:
        """Follow the build of a recipe, beginning it where nobody has."""
        build = self._builds.get(recipe.tag)
        if build is None:
            build = self._builds[recipe.tag] = _Build()
            task = self._group.create_task(
                self._run(build, recipe, base), name=f"build {recipe.tag}"
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await build.follow(progress)

    async def _run(self, build: _Build, recipe: Recipe, base: Recipe | None) -> None:
        """Never raises but when cancelled: an error belongs to those who follow the build."""
        try:
            async with self._lease(recipe.tag):
                if base is not None and not await self._present(base.tag):
                    await self._join(base, None, build.note)
                if not await self._present(recipe.tag):
                    await self._build(recipe, build)
        except asyncio.CancelledError:
            build.finish(EngineUnavailable("the build was abandoned: its manager stops"))
            raise
        except Exception as error:  # noqa: BLE001  # raised again by every follower
            log.warning("image.failed", image=recipe.tag, error=str(error))
            build.finish(error)
        else:
            build.finish(None)
        finally:
            del self._builds[recipe.tag]

    async def _build(self, recipe: Recipe, build: _Build) -> None:
        # a name of its own: another crew may build the same on this engine
        unchecked = f"{recipe.tag}{UNCHECKED}-{nonce()[:8]}"
        log.info("image.building", image=recipe.tag)
        step, tail = "start", deque[str](maxlen=TAIL_LINES)
        try:
            async for item in self._engine.stream(
                lambda client: _begin(client, recipe, unchecked, self._labels)
            ):
                if match := _STEP.match(item.get("stream", "")):
                    step = match[3].strip()
                    await build.note(int(match[1]), int(match[2]), step)
                tail.extend(_lines(item))
                if "error" in item:
                    raise ImageBuildFailed(recipe.tag, step, "\n".join(tail))
        except EngineRefused as error:
            raise ImageBuildFailed(recipe.tag, step, str(error)) from error
        if not await self._present(unchecked):
            raise EngineUnavailable(f"the build of {recipe.tag} broke off")
        if recipe.checks:
            await build.note(0, 0, "check the image")
            await self._engine.call(lambda client: _check(client, recipe, unchecked, self._labels))
        await self._engine.call(lambda client: _rename(client, unchecked, recipe))
        log.info("image.built", image=recipe.tag)

    async def _present(self, tag: str) -> bool:
        return await self._engine.call(lambda client: _id(client, tag)) is not None

    async def _image_id(self, name: str, progress: Progress) -> str:
        """Of a public image, pulled where it is missing."""
        found = await self._engine.call(lambda client: _id(client, name))
        if found is None:
            await progress(0, 0, f"pull {name}")
            await self._pull(name)
            found = await self._engine.call(lambda client: _id(client, name))
        if found is None:
            raise ImageBuildFailed(name, f"pull {name}", "it is not there after its pull")
        return found

    async def _pull(self, name: str) -> None:
        tail = deque[str](maxlen=TAIL_LINES)
        try:
            async for item in self._engine.stream(lambda client: _begin_pull(client, name)):
                tail.extend(_lines(item))
                if "error" in item:
                    raise ImageBuildFailed(name, f"pull {name}", "\n".join(tail))
        except (EngineRefused, NotFound) as error:
            raise ImageBuildFailed(name, f"pull {name}", str(error)) from error


def _begin(client: docker.DockerClient, recipe: Recipe, tag: str, labels: Mapping[str, str]) -> Any:
    return client.api.build(
        fileobj=archive(recipe.dockerfile, recipe.files),
        custom_context=True,
        tag=tag,
        buildargs=dict(recipe.arguments),
        labels={**recipe.labels, **labels},
        rm=True,
        forcerm=True,
        decode=True,
    )


def _begin_pull(client: docker.DockerClient, name: str) -> Any:
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = name, "latest"
    return client.api.pull(repository, tag=tag, stream=True, decode=True)


def _id(client: docker.DockerClient, name: str) -> str | None:
    with absent_is_fine():
        return client.images.get(name).id
    return None


def _rename(client: docker.DockerClient, unchecked: str, recipe: Recipe) -> None:
    client.api.tag(unchecked, recipe.repository, recipe.digest)
    client.api.remove_image(unchecked)


def _check(
    client: docker.DockerClient, recipe: Recipe, image: str, labels: Mapping[str, str]
) -> None:
    """Run the checks as a worker would run: hardened, and without a network."""
    arguments = hardened(CHECK_LIMITS, cpus_there=float(client.info()["NCPU"]))
    for place in (HOME, WORKSPACE):
        arguments["tmpfs"][place] = f"exec,uid={UID},gid={UID},mode=0755,size=256m"
    container = client.containers.create(
        image,
        entrypoint=["/bin/sh", "-c", _script(recipe.checks)],
        network_mode="none",
        labels={**labels, "jetcrew.kind": "image-check"},
        **arguments,
    )
    try:
        container.start()
        code = int(container.wait(timeout=CHECK_TIMEOUT)["StatusCode"])
        said = container.logs(tail=TAIL_LINES).decode(errors="replace")
    finally:
        container.remove(force=True, v=True)
    if code != 0:
        with contextlib.suppress(JetcrewError, NotFound):
            client.api.remove_image(image)
        failed = said.rpartition("check: ")[2].partition("\n")[0] or "its checks"
        raise ImageBuildFailed(recipe.tag, f"check of {failed}", said)


def _script(checks: Sequence[Check]) -> str:
    """Says which check it is at before each, and ends with the first that fails."""
    return "\n".join(
        f"echo 'check: {check.name}'\n( {check.line}\n) </dev/null || exit 1" for check in checks
    )


def _lines(item: dict[str, Any]) -> Sequence[str]:
    text = item.get("stream") or item.get("error") or item.get("status") or ""
    return [line.rstrip() for line in str(text).splitlines() if line.strip()]
