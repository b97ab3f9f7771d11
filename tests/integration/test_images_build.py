"""Worker images on a real engine: built once, checked, told of step by step, and found again."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from docker.errors import ImageNotFound

from contracts.errors import EngineRefused, EngineUnavailable, ImageBuildFailed, InvalidMessage
from services.kit.catalog import Catalog
from services.worker_manager.images.build import Images
from services.worker_manager.images.stored import UNCHECKED
from services.worker_manager.runtimes.engine import Engine
from tests.support.engine import need_engine
from tests.support.images import worker_image

Step = tuple[int, int, str]
HARDENED = {
    "user": "1000:1000", "read_only": True, "cap_drop": ["ALL"], "network_mode": "none",
    "security_opt": ["no-new-privileges"], "tmpfs": {"/tmp": ""},
}  # fmt: skip


class Extra:
    """A directory of the user's own, with one capability that no other test has."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.name = f"try-{secrets.token_hex(4)}"
        (directory / "capabilities").mkdir()

    def capability(self, step: str = "true", check: str = "true") -> Catalog:
        text = f'name = "{self.name}"\nsteps = ["echo {self.name} && {step}"]\ncheck = "{check}"\n'
        (self.directory / "capabilities" / f"{self.name}.toml").write_text(text)
        return Catalog.load(self.directory)


@pytest.fixture
async def extra(tmp_path: Path) -> AsyncIterator[Extra]:
    """The images built with it are removed; the base and its layers stay for the next test."""
    client = need_engine()
    await worker_image("shell")
    extra = Extra(tmp_path)
    yield extra
    for image in client.images.list(filters={"label": f"jetcrew.capabilities={extra.name}"}):
        for tag in image.tags:
            client.images.remove(tag, force=True)


def tags_with(extra: Extra) -> list[str]:
    found = need_engine().images.list(filters={"label": f"jetcrew.capabilities={extra.name}"})
    return [tag for image in found for tag in image.tags]


async def test_an_image_is_built_told_of_step_by_step_and_found_the_next_time(extra: Extra) -> None:
    steps: list[Step] = []

    async def note(step: int, count: int, text: str) -> None:
        steps.append((step, count, text))

    async with Engine() as engine, Images(engine, extra.capability()) as images:
        tag = await images.ensure("shell", [extra.name], note)
        told = len(steps)
        again = await images.ensure("shell", [extra.name], note)
        [mine] = [image for image in await images.list() if extra.name in image.capabilities]

    assert again == tag == mine.tag
    assert len(steps) == told
    count = steps[0][1]
    assert [step for step, _, _ in steps[:-1]] == list(range(1, count + 1))
    assert steps[-1][2] == "check the image"
    assert (mine.agent, tags_with(extra)) == ("shell", [tag])


async def test_two_who_ask_at_once_share_one_build(extra: Extra) -> None:
    leased: list[str] = []

    @contextlib.asynccontextmanager
    async def lease(tag: str) -> AsyncIterator[None]:
        leased.append(tag)
        yield

    async with (
        Images(Engine(), extra.capability(), lease=lease) as images,
        asyncio.TaskGroup() as group,
    ):
        one = group.create_task(images.ensure("shell", [extra.name]))
        two = group.create_task(images.ensure("shell", [extra.name]))

    assert one.result() == two.result()
    assert leased == [one.result()]


async def test_two_crews_that_build_the_same_do_not_meet(extra: Extra) -> None:
    """Leases are of a bus, and an engine may serve two."""
    async with (
        Engine() as one,
        Engine() as other,
        Images(one, extra.capability(step="sleep 2")) as first,
        Images(other, extra.capability(step="sleep 2")) as second,
        asyncio.TaskGroup() as group,
    ):
        builds = [
            group.create_task(images.ensure("shell", [extra.name])) for images in (first, second)
        ]

    assert builds[0].result() == builds[1].result()
    assert tags_with(extra) == [builds[0].result()]


async def test_one_who_stops_waiting_is_released_at_once_and_the_build_goes_on(
    extra: Extra,
) -> None:
    async with Engine() as engine, Images(engine, extra.capability(step="sleep 3")) as images:
        began = asyncio.Event()

        async def note(_step: int, _count: int, _text: str) -> None:
            began.set()

        async with asyncio.TaskGroup() as group:
            impatient = group.create_task(images.ensure("shell", [extra.name], note))
            await began.wait()
            impatient.cancel()
        assert impatient.cancelled()
        assert tags_with(extra) == []

        tag = await images.ensure("shell", [extra.name])

    assert tags_with(extra) == [tag]


async def test_a_build_is_abandoned_when_its_manager_stops(extra: Extra) -> None:
    began = asyncio.Event()

    async def note(_step: int, _count: int, _text: str) -> None:
        began.set()

    async def ask(images: Images) -> None:
        with pytest.raises(EngineUnavailable, match="abandoned"):
            await images.ensure("shell", [extra.name], note)

    slow = extra.capability(step="sleep 600")
    async with (
        asyncio.timeout(60),
        asyncio.TaskGroup() as group,
        Engine() as engine,
        Images(engine, slow) as images,
    ):
        group.create_task(ask(images))
        await began.wait()


async def test_a_failing_step_is_named_with_the_end_of_its_log_and_leaves_no_container(
    extra: Extra,
) -> None:
    async with (
        Engine() as engine,
        Images(engine, extra.capability(step="echo so-it-goes; exit 3")) as images,
    ):
        with pytest.raises(ImageBuildFailed) as failed:
            await images.ensure("shell", [extra.name])

    assert "exit 3" in failed.value.step
    assert "so-it-goes" in failed.value.log_tail
    assert tags_with(extra) == []


async def test_an_image_that_fails_its_own_check_is_not_used(extra: Extra) -> None:
    async with (
        Engine() as engine,
        Images(engine, extra.capability(check="echo not today; false")) as images,
    ):
        with pytest.raises(ImageBuildFailed) as failed:
            await images.ensure("shell", [extra.name])

    assert failed.value.step == f"check of capability {extra.name}"
    assert "not today" in failed.value.log_tail
    assert not [tag for tag in tags_with(extra) if UNCHECKED not in tag]


async def test_what_is_installed_leaves_nothing_in_the_workers_home(extra: Extra) -> None:
    catalog = extra.capability(step="mkdir -p ~/.cache && echo $HOME > ~/.cache/left")
    async with Engine() as engine, Images(engine, catalog) as images:
        tag = await images.ensure("shell", [extra.name])

    look = "echo $HOME; ls -A ~; stat -c %u ~; find / -xdev -name left -path '*cache*' 2>/dev/null || true"
    with said_in(tag, look) as said:
        assert said.split() == ["/home/worker", "1000"]


async def test_unknown_names_are_refused_before_anything_is_asked_of_the_engine(
    tmp_path: Path,
) -> None:
    async with (
        Engine(f"unix://{tmp_path}/none.sock") as engine,
        Images(engine, Catalog.load()) as images,
    ):
        with pytest.raises(InvalidMessage, match=r'\$\.agent: unknown agent "clod"; known: claude'):
            await images.ensure("clod", [])
        with pytest.raises(
            InvalidMessage, match=r'\$\.capabilities\[1\]: unknown capability "gitt"; known: .*git'
        ):
            await images.ensure("shell", ["git", "gitt"])
        with pytest.raises(EngineUnavailable):
            await images.ensure("shell", ["git"])


async def test_a_base_image_that_cannot_be_had_is_named() -> None:
    need_engine()
    async with (
        Engine() as engine,
        Images(engine, Catalog.load(), base_image="127.0.0.1:1/no/such:image") as images,
    ):
        with pytest.raises(ImageBuildFailed, match=r"pull 127\.0\.0\.1:1/no/such:image"):
            await images.ensure("shell", [])


@contextlib.contextmanager
def said_in(image: str, command: str) -> Iterator[str]:
    """What a command prints as the worker's user in a container without rights, network or disk."""
    output = need_engine().containers.run(
        image, entrypoint=["/bin/sh", "-c", command], remove=True, **HARDENED
    )  # type: ignore[call-overload]
    yield output.decode()


async def test_a_worker_image_holds_the_wrapper_beyond_the_reach_of_its_user() -> None:
    image = await worker_image("shell")

    with said_in(image, "cat /opt/jetcrew/agent.toml") as said:
        assert 'name = "shell"' in said
    with said_in(image, "id -u; stat -c '%a %u:%g' /workspace /home/worker /run/cred") as said:
        assert said.split("\n")[:4] == ["1000", "755 1000:1000", "700 1000:1000", "700 1000:1000"]
    with said_in(
        image, "/opt/jetcrew/bin/python -I -c 'import wrapper; print(wrapper.__file__)'"
    ) as said:
        assert said.strip() == "/opt/jetcrew/src/wrapper/__init__.py"
    with said_in(image, "find /opt/jetcrew -writable ! -type l | head") as said:
        assert said == ""


async def test_claude_runs_as_the_workers_user_in_a_read_only_container() -> None:
    image = await worker_image("claude", "git")

    with said_in(image, "claude --version; git --version; command -v node || echo no node") as said:
        assert "(Claude Code)" in said
        assert "git version" in said
        assert "no node" in said


async def test_an_image_in_use_is_not_removed_and_removing_one_twice_is_no_error(
    extra: Extra,
) -> None:
    async with Engine() as engine, Images(engine, extra.capability()) as images:
        tag = await images.ensure("shell", [extra.name])
        user = need_engine().containers.run(
            tag, entrypoint=["sleep", "600"], detach=True, init=True
        )
        try:
            with pytest.raises(EngineRefused, match="is using"):
                await images.remove(tag)
        finally:
            user.remove(force=True)
        await images.remove(tag)
        await images.remove(tag)

    with pytest.raises(ImageNotFound):
        need_engine().images.get(tag)
