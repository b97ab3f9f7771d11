"""In what form an agent is to give its verdict, and how it is read in that form."""

from collections.abc import Mapping
from dataclasses import dataclass

from contracts.agent import Agent
from contracts.codec import encode
from contracts.events import Verdict
from wrapper.output import Reading
from wrapper.verdict import (
    EXPLANATION,
    STRUCTURED,
    VerdictProblem,
    read_verdict,
    repair_prompt,
    structured_verdict,
    whole_answer,
    whole_schema,
)


@dataclass(frozen=True)
class AnswerFormat:
    """A block in the text, or an object by the CLI's own means."""

    explanation: str = EXPLANATION
    """Appended to the prompt."""
    schema: str = ""
    """JSON Schema of the whole answer, for a CLI that takes one; empty for the others."""

    @classmethod
    def of(cls, agent: Agent, data: Mapping[str, object] | None) -> "AnswerFormat":
        """For an agent, and a task that brings a schema for its data, or none."""
        if data is None:
            return cls()
        if _takes_schema(agent):
            return cls(STRUCTURED, encode(whole_schema(data)).decode())
        wanted = f'"data" has to match this JSON Schema: {encode(data).decode()}'
        return cls(f"{EXPLANATION}{wanted}\n")

    def read(self, reading: Reading) -> Verdict | VerdictProblem:
        """The verdict. A CLI may give up on its own means, and the agent may know the block from before."""
        if reading.structured is not None:
            return structured_verdict(reading.structured)
        if self.schema and (answer := whole_answer(reading.text)) is not None:
            return structured_verdict(answer)
        return read_verdict(reading.text)

    def repair(self, problem: VerdictProblem) -> str:
        """What the agent is asked, once, after an answer that is no verdict."""
        return repair_prompt(problem, self.explanation)


def _takes_schema(agent: Agent) -> bool:
    arguments = [argument for group in agent.first.argv for argument in group]
    return any(name in argument for argument in arguments for name in ("{schema}", "{schema_file}"))
