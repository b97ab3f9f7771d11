"""How each real agent is pointed at a scripted endpoint, and how its tools are called."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.support.models import Request, Says, Script, Step, Uses, in_order

KEY = "sk-scripted-key-1234"


def besides_titles(script: Script) -> Script:
    """`script` for the requests that carry a conversation on; some agents ask a title for it on the side."""

    def answer(request: Request) -> Step:
        return Says("A title") if "title generator" in request.said else script(request)

    return answer


def talk(*steps: Step) -> Script:
    """One step for each request that carries the conversation on, the last one repeated."""
    return besides_titles(in_order(*steps))


@dataclass(frozen=True)
class Rig:
    """One agent at one of the endpoint's interfaces."""

    agent: str
    url_env: str
    key_env: str
    tool: str
    """Its shell tool."""
    more: Mapping[str, object] = field(default_factory=dict)
    """What that wants besides a command."""
    command: str = "command"
    path: str = ""
    """Of the URL."""
    env: Mapping[str, str] = field(default_factory=dict)
    patience: float = 30.0
    """Seconds in which it has surely asked its model and begun to work, on a busy machine, too."""
    waits_out_429: bool = True
    """Whether it tries again by itself when it was too fast."""

    def environment(self, url: str) -> dict[str, str]:
        """For the worker's `env`."""
        return {self.url_env: f"{url}{self.path}", **self.env}

    @property
    def secrets(self) -> dict[str, str]:
        """For the worker's secrets."""
        return {self.key_env: KEY}

    def shell(self, line: str) -> Uses:
        """The model calls its shell tool."""
        return Uses(self.tool, {self.command: line, **self.more})


RIGS = {
    rig.agent: rig
    for rig in (
        Rig("claude", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY", "Bash", patience=15.0),
        Rig("factory", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY", "Execute", {"summary": "do it"}),
        Rig("codex", "OPENAI_BASE_URL", "OPENAI_API_KEY", "exec_command", command="cmd", path="/v1",
            env={"OPENAI_MODEL": "gpt-5.5"}, patience=15.0, waits_out_429=False),
        Rig("gemini", "GOOGLE_GEMINI_BASE_URL", "GEMINI_API_KEY", "run_shell_command"),
        Rig("opencode", "OPENAI_BASE_URL", "OPENAI_API_KEY", "bash", {"description": "do it"}, path="/v1",
            env={"OPENAI_MODEL": "scripted"}, patience=90.0),
        Rig("qwen", "OPENAI_BASE_URL", "OPENAI_API_KEY", "run_shell_command", {"is_background": False},
            path="/v1", env={"OPENAI_MODEL": "scripted"}),
    )
}  # fmt: skip
