"""Workers as plain processes: started, adopted, stopped, and nothing left of them."""

import asyncio
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest

from contracts.errors import InvalidMessage, NotThere
from services.kit.catalog import Catalog
from services.worker_manager.runtimes import Unit, UnitSpec, proc
from services.worker_manager.runtimes.process import ProcessRuntime
from tests.support.waiting import eventually

WAITS = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); print('up', flush=True); signal.pause()"
IGNORES_TERM = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
ENDS_WITH_7 = "print('broken'); raise SystemExit(7)"
TELLS = """
import json, os, pathlib, sys
boot = pathlib.Path(sys.argv[1])
print(json.dumps({
    "environ": dict(os.environ), "argv": sys.argv[1:], "cwd": os.getcwd(),
    "files": {str(p.relative_to(boot)): [p.read_text(), p.stat().st_mode & 0o777] for p in boot.rglob("*") if p.is_file()},
}))
"""
LEAVES_A_CHILD = """
import os, pathlib, subprocess, sys, signal
child = subprocess.Popen([sys.executable, "-c", "import time\\nwhile True: open('alive', 'a').write('x'); time.sleep(0.02)"],
                         start_new_session=True, env={})
pathlib.Path("child").write_text(str(child.pid))
if sys.argv[2:] == []: signal.sigwait({signal.SIGTERM})
"""

CATALOG = Catalog(agents={}, capabilities={})


def runtime(directory: Path, script: str = WAITS, **settings: str) -> ProcessRuntime:
    command: Sequence[str] = (sys.executable, "-I", "-c", script)
    return ProcessRuntime(
        directory,
        CATALOG,
        bus="nats://127.0.0.1:4222",
        path=os.defpath,
        environment=settings,
        command=command,
    )


def spec(incarnation: int = 1, files: Mapping[str, bytes] | None = None) -> UnitSpec:
    return UnitSpec(worker="ada", incarnation=incarnation, agent="echo", files=files or {})


@pytest.fixture
async def workers(tmp_path: Path) -> AsyncIterator[Path]:
    """A directory of run directories; whatever still runs there is killed afterwards."""
    yield tmp_path / "workers"
    cleaner = runtime(tmp_path / "workers")
    for unit in await cleaner.list():
        await cleaner.remove(unit.worker, keep_volumes=False)


async def only(units: ProcessRuntime) -> Unit:
    [unit] = await units.list()
    return unit


async def is_up(units: ProcessRuntime, worker: str = "ada") -> None:
    async def says() -> bool:
        return "up" in await units.logs(worker)

    await eventually(says, True)


async def ended(units: ProcessRuntime) -> Unit:
    async def state() -> str:
        return (await only(units)).state

    await eventually(state, "exited")
    return await only(units)


async def test_a_wrapper_sees_its_files_its_marker_and_nothing_of_the_managers_environment(
    workers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY", "of-the-manager")
    units = runtime(workers, TELLS, LANG="C.UTF-8")
    files = {"boot.json": b"{}", "worker.creds": b"creds", "secrets/KEY": b"hush"}

    await units.start(spec(incarnation=3, files=files))
    unit = await ended(units)

    assert unit.exit is not None
    assert unit.exit.reason == "exit-0"
    told = json.loads(unit.exit.log_tail)
    assert told["files"] == {
        "boot.json": ["{}", 0o600], "worker.creds": ["creds", 0o600], "secrets/KEY": ["hush", 0o600],
    }  # fmt: skip
    assert set(told["environ"]) - {"LC_CTYPE"} == {"PATH", "HOME", "LANG", "JETCREW_UNIT"}
    assert told["environ"]["JETCREW_UNIT"].startswith("ada-3-")
    assert told["argv"] == [str(workers / "ada" / "cred")]
    assert told["cwd"] == str(workers / "ada" / "workspace")
    assert stat.S_IMODE((workers / "ada" / "cred").stat().st_mode) == 0o700


async def test_a_unit_outlives_a_kill_of_the_manager_and_the_next_one_adopts_it(
    workers: Path,
) -> None:
    manager = f"""
import asyncio, os, pathlib, signal
from tests.integration.test_runtime_process import runtime, spec
async def main():
    unit = await runtime(pathlib.Path({str(workers)!r})).start(spec())
    print(unit.id, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", manager, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    output, _ = await process.communicate()
    assert process.returncode == -signal.SIGKILL

    units = runtime(workers)
    found = await only(units)
    adopted = await units.start(spec())

    assert found.state == "running"
    assert await units.find("ada") == found
    assert adopted.id == found.id == output.decode().split()[-1]


async def test_another_incarnation_replaces_the_unit_that_runs(workers: Path) -> None:
    units = runtime(workers)
    first = await units.start(spec(incarnation=1))
    second = await units.start(spec(incarnation=2))

    assert second.id != first.id
    assert (await only(units)).incarnation == 2
    assert alive(first) is False


async def test_an_ended_unit_is_replaced_and_workspace_and_home_stay(workers: Path) -> None:
    units = runtime(workers, ENDS_WITH_7)
    await units.start(spec())
    await ended(units)
    (workers / "ada" / "workspace" / "kept").write_text("yes")

    again = await runtime(workers).start(spec())

    assert again.state == "running"
    assert (workers / "ada" / "workspace" / "kept").read_text() == "yes"


async def test_stop_lets_the_wrapper_drain_and_tells_how_it_ended(workers: Path) -> None:
    units = runtime(workers)
    await units.start(spec())
    await is_up(units)

    exit_ = await units.stop("ada", grace=60)

    assert exit_ is not None
    assert (exit_.reason, exit_.code, exit_.signal) == ("exit-0", 0, None)
    assert await units.stop("nobody", grace=1) is None


async def test_stop_kills_a_wrapper_that_does_not_heed_it(workers: Path) -> None:
    units = runtime(workers, IGNORES_TERM)
    await units.start(spec())
    await is_up(units)

    exit_ = await units.stop("ada", grace=0.2)

    assert exit_ is not None
    assert (exit_.reason, exit_.signal) == ("killed", "SIGKILL")


async def test_exit_codes_and_signals_are_told_apart(workers: Path) -> None:
    units = runtime(workers, ENDS_WITH_7)
    await units.start(spec())
    exit_ = (await ended(units)).exit
    assert exit_ is not None
    assert (exit_.reason, exit_.code, exit_.log_tail) == ("exit-7", 7, "broken")

    unit = await runtime(workers).start(spec())
    os.kill(pid_of(unit), signal.SIGKILL)
    exit_ = (await ended(units)).exit
    assert exit_ is not None
    assert (exit_.reason, exit_.code, exit_.signal) == ("killed", None, "SIGKILL")


@pytest.mark.parametrize("how", ["it ends", "it is stopped", "its supervisor is killed too"])
async def test_a_child_in_a_session_of_its_own_with_an_empty_environment_does_not_survive(
    workers: Path, how: str
) -> None:
    units = runtime(workers, LEAVES_A_CHILD)
    unit = await units.start(spec())
    note = workers / "ada" / "workspace" / "child"
    await eventually(lambda: note.exists() and note.read_text() != "", True)
    child = int(note.read_text())

    if how == "it ends":
        os.kill(pid_of(unit), signal.SIGTERM)
    elif how == "it is stopped":
        await units.stop("ada", grace=60)
    else:
        await units.stop("ada", grace=0)
    await ended(units)

    assert not running(child)


async def test_a_wrapper_whose_supervisor_was_killed_is_still_found_and_stopped(
    workers: Path,
) -> None:
    units = runtime(workers, IGNORES_TERM)
    await units.start(spec())
    await is_up(units)
    supervisor = json.loads((workers / "ada" / "unit.json").read_text())["supervisor"]
    os.kill(supervisor, signal.SIGKILL)
    await eventually(lambda: running(supervisor), False)

    assert (await only(units)).state == "running"
    exit_ = await units.stop("ada", grace=0)

    assert exit_ is not None
    assert (exit_.reason, exit_.code) == ("unknown", None)


async def test_a_reused_process_number_is_not_taken_for_the_unit(workers: Path) -> None:
    units = runtime(workers, ENDS_WITH_7)
    await units.start(spec())
    await ended(units)
    record = json.loads((workers / "ada" / "unit.json").read_text())
    record["pid"] = record["supervisor"] = os.getpid()
    (workers / "ada" / "unit.json").write_text(json.dumps(record))

    assert (await only(units)).state == "exited"
    await units.remove("ada", keep_volumes=False)  # would have killed this very test


async def test_a_unit_of_before_the_machine_started_anew_is_lost_with_its_engine(
    workers: Path,
) -> None:
    units = runtime(workers, IGNORES_TERM)
    await units.start(spec())
    path = workers / "ada" / "unit.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "boot": "of-another-time"}))

    exit_ = (await only(units)).exit

    path.write_text(json.dumps(record))
    assert exit_ is not None
    assert exit_.reason == "engine-lost"


async def test_pause_freezes_the_whole_unit_and_resume_thaws_it(workers: Path) -> None:
    units = runtime(workers, LEAVES_A_CHILD)
    unit = await units.start(spec())
    alive_file = workers / "ada" / "workspace" / "alive"
    await eventually(alive_file.exists, True)
    child = int((workers / "ada" / "workspace" / "child").read_text())

    await units.pause("ada")

    await eventually(lambda: f"{letter(pid_of(unit))}{letter(child)}", "TT")
    assert (await only(units)).state == "paused"
    await units.resume("ada")
    assert (await only(units)).state == "running"
    size = alive_file.stat().st_size
    await eventually(lambda: alive_file.stat().st_size > size, True)


async def test_a_paused_unit_can_be_stopped_in_peace(workers: Path) -> None:
    units = runtime(workers)
    await units.start(spec())
    await is_up(units)
    await units.pause("ada")

    exit_ = await units.stop("ada", grace=60)

    assert exit_ is not None
    assert exit_.reason == "exit-0"


async def test_pausing_what_does_not_run_is_refused(workers: Path) -> None:
    with pytest.raises(NotThere):
        await runtime(workers).pause("ada")


async def test_exits_tells_of_an_end_as_it_happens(workers: Path) -> None:
    units = runtime(workers)
    unit = await units.start(spec())
    stop = asyncio.Event()
    told: list[Unit] = []

    async def watch() -> None:
        async for gone in units.exits(stop):
            told.append(gone)
            stop.set()

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(watch())
        await is_up(units)
        os.kill(pid_of(unit), signal.SIGKILL)

    assert [(gone.worker, gone.id) for gone in told] == [("ada", unit.id)]
    assert told[0].exit is not None
    assert told[0].exit.signal == "SIGKILL"


async def test_remove_leaves_nothing_or_just_the_volumes(workers: Path) -> None:
    units = runtime(workers)
    await units.start(spec())
    sealed = workers / "ada" / "home" / "cache" / "sealed"
    sealed.mkdir(parents=True)
    (sealed / "file").write_text("read-only, as package caches are")
    sealed.chmod(0o500)

    await units.remove("ada", keep_volumes=True)

    assert sorted(path.name for path in (workers / "ada").iterdir()) == ["home", "workspace"]
    assert await units.list() == []
    await units.remove("ada", keep_volumes=False)
    await units.remove("ada", keep_volumes=False)
    assert not (workers / "ada").exists()


async def test_a_file_name_that_leads_out_of_the_boot_directory_is_refused(workers: Path) -> None:
    with pytest.raises(ValueError, match="not a file of a boot directory"):
        await runtime(workers).start(spec(files={"../unit.json": b"{}"}))


async def test_an_unknown_agent_is_named_with_those_known(workers: Path) -> None:
    with pytest.raises(InvalidMessage, match='unknown agent "clod"; known: none'):
        runtime(workers).layout("ada", "clod")


def pid_of(unit: Unit) -> int:
    return int(unit.id.partition("-")[0])


def alive(unit: Unit) -> bool:
    pid, _, started = unit.id.partition("-")
    return proc.state(int(pid), int(started)) is not None


def letter(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None


def running(pid: int) -> bool:
    return letter(pid) not in {None, "Z", "X"}
