"""Proving that the agent is there before the worker calls itself ready."""

import asyncio
from pathlib import Path

from contracts.agent import Agent
from contracts.errors import JetcrewError
from wrapper.agent import Values, environment
from wrapper.family import Family
from wrapper.output.reading import shortened
from wrapper.process import NotStarted, StreamName, started

PATIENCE = 30.0
"""Seconds; the slowest of the known agents takes three for its version."""


class AgentMissing(JetcrewError):
    """The agent's own check failed: not installed, not executable, broken."""


async def preflight(
    agent: Agent, values: Values, *, path: str, family: Family, run: str
) -> str | None:
    """Run the agent's check, which needs no secrets; the first line it prints, which is its version.

    Raises:
        AgentMissing: it failed; says how.
    """
    argv = [values.fill(argument) for argument in agent.preflight]
    if not argv:
        return None
    said = {"stdout": bytearray(), "stderr": bytearray()}

    def take(stream: StreamName, data: bytes) -> None:
        said[stream].extend(data[: 4096 - len(said[stream])])

    env = environment(agent, values, path=path, secrets={}, run=run)
    cwd = Path(values.workspace)
    try:
        async with (
            asyncio.timeout(PATIENCE),
            started(argv, env=env, cwd=cwd, family=family, run=run) as process,
        ):
            await process.follow(take)
            await process.exited.wait()
    except NotStarted as error:
        raise AgentMissing(str(error)) from None
    except TimeoutError:
        raise AgentMissing(f"{argv[0]} did not answer within {PATIENCE:.0f} s") from None
    out, err = (shortened(said[s].decode(errors="replace")) for s in said)
    if process.exit_code != 0:
        how = process.signal_name or f"exit code {process.exit_code}"
        raise AgentMissing(f"{' '.join(argv)} failed ({how}): {err or out}")
    return out.splitlines()[0] if out else None
