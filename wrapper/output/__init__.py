"""Reading what agents print: one adapter a format, behind one Protocol."""

from collections.abc import Callable

from contracts.agent import Agent, OutputFormat
from contracts.errors import ConfigurationInvalid
from wrapper.output.claude import ClaudeOutput
from wrapper.output.codex import CodexOutput
from wrapper.output.custom import CustomOutput
from wrapper.output.droid import DroidOutput
from wrapper.output.gemini import GeminiOutput
from wrapper.output.opencode import OpencodeOutput
from wrapper.output.reading import Adapter, Noted, Reading
from wrapper.output.text import TextOutput

__all__ = ["ADAPTERS", "Adapter", "Noted", "Reading", "adapter_for"]

ADAPTERS: dict[OutputFormat, Callable[[], Adapter]] = {
    "text": TextOutput,
    "claude": ClaudeOutput,
    "codex": CodexOutput,
    "droid": DroidOutput,
    "gemini": GeminiOutput,
    "opencode": OpencodeOutput,
}
"""Formats that need no further description."""


def adapter_for(agent: Agent, fill: Callable[[str], str] = str) -> Adapter:
    """A fresh adapter for one turn of an agent. `fill` replaces placeholders.

    Raises:
        ConfigurationInvalid: its output is `jsonl`, and nothing says where the answer stands.
    """
    if agent.output != "jsonl":
        return ADAPTERS[agent.output]()
    if agent.jsonl is None:
        raise ConfigurationInvalid(
            f'agent {agent.name}: $.jsonl: missing; with output = "jsonl" it says where the answer stands'
        )
    return CustomOutput(agent.jsonl, fill) if fill(agent.jsonl.text) else TextOutput()
