"""What `jetcrew run` does, from its options to the verdict line."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from contracts.budget import Budget
from contracts.codec import convert, encode
from contracts.errors import TooLarge
from contracts.ids import TaskId, WorkerId, nonce
from contracts.task import SubmitTask, TaskRecord
from contracts.topology import DOOR_BYTES
from contracts.worker import CreateWorker, WorkerRecord
from services.cli.errand import Errand, Order, Outcome
from services.cli.failures import (
    SUCCESS,
    UNSUCCESSFUL,
    Usage,
)
from services.cli.hosting import Wanted
from services.cli.leftovers import OWNER, owner_of_this_process, sweep
from services.cli.link import linked, quiet
from services.cli.packing import Packed
from services.cli.repository import returned, taken_along, wanted
from services.cli.screen import Screen
from services.cli.settings import Environment
from services.cli.signals import Interrupts, heeded
from services.cli.standby import Standby, crew_at_hand
from services.cli.target import Target, local_target, named_target
from services.cli.text import is_text
from services.kit.state import StateDirectory

DEFAULT_AGENT = "claude"
GIT = "git"
"""The capability without which a worker can do nothing with a repository."""
_LIMITS = {"memory_mb": "memory", "cpus": "cpus", "pids": "pids", "repository_mb": "repo_limit"}
"""Fields of a worker's limits, and the options that give them."""
_BUDGET = {"usd": "budget_usd", "tokens": "budget_tokens", "turns": "budget_turns"}
"""Fields of a budget, and the options that give them."""
_WAITS = {name: name for name in ("queue_timeout", "idle_pause", "idle_expiry")}


@dataclass(frozen=True, kw_only=True)
class Request:
    """The command line of `run`."""

    prompt: str
    timeout: float
    agent: str | None = None
    runtime: str | None = None
    instructions: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    network: str | None = None
    project: str | None = None
    memory: int | None = None
    cpus: float | None = None
    pids: int | None = None
    queue_timeout: float | None = None
    idle_pause: float | None = None
    idle_expiry: float | None = None
    budget_usd: float | None = None
    budget_tokens: int | None = None
    budget_turns: int | None = None
    data_schema: dict[str, object] | None = None
    name: str | None = None
    owner: str | None = None
    session: str = "continue"
    keep: bool = False
    worker: str | None = None
    repo: str | None = None
    dirty: bool = False
    depth: int | None = None
    repo_limit: int | None = None
    trust_repository: bool = False
    apply: bool = False
    as_json: bool = False
    url: str | None = None
    creds: Path | None = None
    context: str | None = None
    verbose: bool = False
    debug: bool = False


async def run_request(request: Request) -> int:
    """Carry out the command; its exit code. With `as_json` there is one document, unless an error is raised."""
    outcome = await _carry_out(request)
    if request.as_json:
        _print(document(outcome))
    return outcome.exit_code


async def _carry_out(request: Request) -> Outcome:
    environment = Environment.read()
    order = order_of(request, environment)
    asked = wanted(vars(request), order.secrets)
    screen = Screen(document=request.as_json)
    if not request.debug:
        quiet()
    variables = environment.variables
    async with taken_along(asked, variables, screen) as found:
        return await _at_a_crew(request, environment, order, found, screen)


async def _at_a_crew(
    request: Request, environment: Environment, order: Order, found: Packed | None, screen: Screen
) -> Outcome:
    order = replace(order, repository=found)
    with heeded() as interrupts:
        target = named_target(
            environment, url=request.url, creds=request.creds, context=request.context
        )
        if target is None:
            target = local_target(environment)
            if target is not None and target.crew is not None and target.crew.kind == "run":
                target = None  # it ends with another prompt; then it is our turn to host it
        if target is not None:
            outcome = await _over(target, request, environment, order, screen, interrupts, None)
        else:
            _check_catalog(order, environment)
            outcome = await _hosted(request, environment, order, screen, interrupts)
    return outcome


def order_of(request: Request, environment: Environment) -> Order:
    """What the options ask for.

    Raises:
        InvalidMessage: a value is not what its field takes.
        Usage: a secret is not in the environment.
        TooLarge: the prompt does not fit through its door.
    """
    task = TaskId(f"r-{nonce()[:12]}")
    secrets = {name: secret_value(environment, name) for name in request.secrets}
    owner = {} if request.keep else {OWNER: owner_of_this_process()}
    name = request.name or f"run-{nonce()[:8]}"
    lifetime = "persistent" if request.keep else "task"
    spec = None
    if not request.worker:
        spec = spec_of(request, name, labels=owner, lifetime=lifetime)
    asked = {"prompt": request.prompt, "timeout": request.timeout, "session": request.session}
    size = len(encode(convert(asked, SubmitTask)))
    if size > DOOR_BYTES - 1024:
        raise TooLarge(size, DOOR_BYTES - 1024, "prompt")
    return Order(
        prompt=request.prompt, timeout=request.timeout, task=task, secrets=secrets,
        worker=WorkerId(spec.name if spec else request.worker or ""), spec=spec, keep=request.keep,
        session=request.session, budget=budget_of(request), data_schema=request.data_schema,
    )  # fmt: skip


def spec_of(request: Any, name: str, **more: Any) -> CreateWorker:
    """The worker that options describe.

    Raises:
        InvalidMessage: a value is not what its field takes.
    """
    given = {
        "name": name,
        "agent": request.agent or DEFAULT_AGENT,
        "runtime": request.runtime or "auto",
        "network": request.network or "bridge",
        "project": request.project,
        "instructions": request.instructions,
        "env": dict(request.env),
        "secrets": list(request.secrets),
        "capabilities": _capabilities(request),
        "trust_repository": request.trust_repository,
        "owner": request.owner,
        "limits": _given(request, _LIMITS),
        **_given(request, _WAITS),
        **more,
    }
    return convert(given, CreateWorker)


def _capabilities(request: Any) -> list[str]:
    """With the tools for the repository that goes along."""
    named = list(request.capabilities)
    return [*named, GIT] if request.repo is not None and GIT not in named else named


def budget_of(request: Any) -> Budget:
    """The budget that options describe.

    Raises:
        InvalidMessage: a bound is not above zero.
    """
    return convert(_given(request, _BUDGET), Budget, field="$.budget")


def _given(request: Any, names: Mapping[str, str]) -> dict[str, Any]:
    """Fields whose options were given; what was not is for the contract, or the operator, to say."""
    values = {name: getattr(request, option) for name, option in names.items()}
    return {name: value for name, value in values.items() if value is not None}


def secret_value(environment: Environment, name: str) -> str:
    """The value of a secret, from the caller's environment.

    Raises:
        Usage: it is not there.
    """
    value = environment.variables.get(name)
    if not value:
        what = "is empty in" if value == "" else "is not in"
        raise Usage(f"secret {name} {what} your environment: export {name}=… first")
    if not is_text(value):
        raise Usage(f"secret {name} is not UTF-8 text")
    return value


def _check_catalog(order: Order, environment: Environment) -> None:
    """A misspelt agent need not start a server first. With agents of one's own only the manager knows."""
    if order.spec is None or environment.variables.get("JETCREW_DATA"):
        return
    from services.kit.catalog import Catalog

    catalog = Catalog.load()
    catalog.agent(order.spec.agent)
    for index, name in enumerate(order.spec.capabilities):
        catalog.capability(name, field=f"$.capabilities[{index}]")


async def _hosted(
    request: Request, environment: Environment, order: Order, screen: Screen, interrupts: Interrupts
) -> Outcome:
    state = StateDirectory.at(environment.state_dir)
    wanted = Wanted(api=False, verbose=request.verbose)
    screen.doing("starting a crew")
    async with crew_at_hand(environment, state, wanted, screen.phase) as standby:
        target = await standby.target(interrupts)
        return await _over(target, request, environment, order, screen, interrupts, standby)


async def _over(
    target: Target,
    request: Request,
    environment: Environment,
    order: Order,
    screen: Screen,
    interrupts: Interrupts,
    standby: Standby | None,
) -> Outcome:
    async with linked(target, debug=request.debug) as bus:
        given_up = standby.given_up if standby else _never
        prove = standby.prove if standby else _never
        clear = sweep if standby is not None and standby.hosting else None
        outcome = await Errand(bus, order, screen, interrupts, given_up, prove, clear).run()
        if order.repository is None:
            return outcome
        back = await returned(
            bus, order.repository, outcome.task, environment.variables, screen, merge=request.apply
        )
        code = outcome.exit_code or (UNSUCCESSFUL if back.problem else SUCCESS)
        return replace(outcome, exit_code=code, returned=back)


def _never() -> None:
    """Another process's crew is not ours to judge."""


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def document(outcome: Outcome) -> str:
    """The one JSON document of `run --json`."""
    return msgspec.json.encode(
        {
            "exit_code": outcome.exit_code,
            "task": shown(outcome.task),
            "end": outcome.task.end if outcome.task else None,
            "worker": shown(outcome.worker),
            "repository": outcome.returned,
            "error": None,
        }
    ).decode()


def shown(record: TaskRecord | WorkerRecord | None) -> Any:
    """A record as plain values, without what only the control plane needs."""
    if record is None:
        return None
    fields = msgspec.to_builtins(record)
    return {name: value for name, value in fields.items() if name not in {"owed", "evt_seq"}}
