"""What `jetcrew doctor` looks at. Each check tells what it found and, unless all is well, what to do."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from contracts.errors import JetcrewError
from contracts.topology import Topology
from services.cli import checks_of_host as host
from services.cli.checks_of_bus import examine_bus
from services.cli.checks_of_identity import credentials, identity
from services.cli.failures import NoCrew
from services.cli.findings import NOTE, OK, WRONG, Finding
from services.cli.link import linked, quiet
from services.cli.settings import Environment
from services.cli.target import Target, find_target
from services.kit.crew import Crew, running_crew
from services.kit.state import StateDirectory


async def examine(options: dict[str, Any]) -> list[Finding]:
    """Every finding, in the order in which things depend on each other."""
    quiet()
    environment = Environment.read()
    state = StateDirectory(environment.state_dir)
    findings = [*host.state_directory(state), *identity(state, Topology(environment.prefix))]
    findings += [*host.settings(), *host.server_binary(), *host.git()]
    findings += host.disk(state, environment.disk_reserve)
    findings += [finding async for finding in _crew(environment, state, options)]
    return [*findings, *await asyncio.to_thread(lambda: [*host.engine(environment)])]


async def _crew(
    environment: Environment, state: StateDirectory, options: dict[str, Any]
) -> AsyncIterator[Finding]:
    """The server and everything behind it."""
    try:
        target = find_target(
            environment, url=options["url"], creds=options["creds"], context=options["context"]
        )
    except NoCrew:
        yield _no_crew(state)
        return
    except JetcrewError as error:
        do = (
            "name a crew with --url and --creds, or with --context; without them it is the one here"
        )
        yield Finding("crew", WRONG, str(error), do)
        return
    if target.source != "crew" and target.creds is not None:
        for finding in credentials(target.creds):
            yield finding
    async for finding in _reached(environment, target):
        yield finding
    if target.crew is not None:
        yield await asyncio.to_thread(_api, target.crew)


async def _reached(environment: Environment, target: Target) -> AsyncIterator[Finding]:
    findings: list[Finding] = []
    try:
        async with linked(target) as bus:
            findings.append(Finding("server", OK, target.url))
            findings += [f async for f in examine_bus(bus, replicas=environment.replicas)]
    except NoCrew as error:
        findings.append(
            Finding("server", WRONG, str(error), "start it (jetcrew up), or correct the address")
        )
    except JetcrewError as error:
        findings.append(
            Finding("credentials", WRONG, str(error), "use the credentials of this crew (--creds)")
        )
    for finding in findings:
        yield finding


def _no_crew(state: StateDirectory) -> Finding:
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        crew = msgspec.json.decode(state.crew_file.read_bytes(), type=Crew)
        if running_crew(state) is None:
            return Finding(
                "crew", WRONG, f"process {crew.pid} held a crew together and has died", "jetcrew up"
            )
    return Finding("crew", NOTE, "none runs here", "jetcrew up; jetcrew run starts one by itself")


def _api(crew: Crew) -> Finding:
    """Whether the HTTP API answers; blocks."""
    import httpx

    check, do = "api", "look into logs/api.log in the state directory"
    if crew.http_url is None:
        return Finding(check, NOTE, "this crew has none", "jetcrew up starts one")
    try:
        answer = httpx.get(f"{crew.http_url}/readyz", timeout=5, trust_env=False)
    except httpx.HTTPError as error:
        return Finding(check, WRONG, f"{crew.http_url}: {error}", do)
    if answer.status_code == httpx.codes.OK:
        return Finding(check, OK, crew.http_url)
    return Finding(check, WRONG, f"{crew.http_url}/readyz answers {answer.status_code}", do)
