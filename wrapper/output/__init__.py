"""Reading what agents print: one adapter a format, behind one Protocol."""

from collections.abc import Callable

from contracts.agent import Agent, OutputFormat
from contracts.errors import ConfigurationInvalid
from wrapper.output.claude import ClaudeOutput
from wrapper.output.droid import DroidOutput
from wrapper.output.reading import Adapter, Noted, Reading
from wrapper.output.text import TextOutput

__all__ = ["ADAPTERS", "Adapter", "Noted", "Reading", "adapter_for"]

ADAPTERS: dict[OutputFormat, Callable[[], Adapter]] = {
    "text": TextOutput,
    "claude": ClaudeOutput,
    "droid": DroidOutput,
}
"""Formats that this version reads."""


def adapter_for(agent: Agent) -> Adapter:
    """A fresh adapter for one turn of an agent.

    Raises:
        ConfigurationInvalid: this version does not read its format.
    """
    try:
        return ADAPTERS[agent.output]()
    except KeyError:
        known = ", ".join(ADAPTERS)
        raise ConfigurationInvalid(
            f'agent {agent.name}: output format "{agent.output}" is not read by this version; known: {known}'
        ) from None
