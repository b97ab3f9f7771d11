"""The agent's conversations: which one a turn belongs to, and whether it was still there."""

import re
import uuid
from dataclasses import dataclass

from contracts.agent import Agent
from wrapper.turn import Ran


@dataclass(frozen=True)
class Conversation:
    """The conversation of one turn."""

    id: str
    """Empty when the CLI chooses it, or has none."""
    resumed: bool


def conversation(agent: Agent, earlier: str | None) -> Conversation:
    """The conversation to go on with, or a new one."""
    if earlier and agent.resume is not None:
        return Conversation(earlier, resumed=True)
    return fresh(agent)


def fresh(agent: Agent) -> Conversation:
    """A new conversation; its id is ours to choose with some agents."""
    return Conversation(
        str(uuid.uuid4()) if agent.session.source == "caller" else "", resumed=False
    )


def is_lost(agent: Agent, ran: Ran) -> bool:
    """Whether a resumed turn failed because the CLI does not know the conversation."""
    answered = ran.exit_code == 0 or (ran.cause == "final" and ran.reading.error is None)
    if agent.session_lost is None or answered or ran.cause not in ("exit", "final"):
        return False
    return re.search(agent.session_lost, f"{ran.stderr}\n{ran.reading.error or ''}") is not None
