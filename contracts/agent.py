"""The description of an agent: everything jetcrew knows of a CLI, as data in `images/agents/NAME.toml`.

The figures and traps behind each field were measured on the CLIs themselves; an agent's own file cites
what is particular to it.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from contracts.ids import Token

Placeholder = str
"""May hold `{session}`, `{workspace}`, `{home}`, `{prompt_file}`, `{schema}` or `{schema_file}` (a JSON Schema of
the whole verdict, where the task brings one for its data), or `{env.NAME}`, a value of the worker's own `env`,
or else of the agent's (never a secret). What else stands in braces is left as it is."""

COMMON_CONFIG = (".mcp.json", ".agents", ".claude")
"""Names by which a repository configures agents, and which more than one of them reads."""

OutputFormat = Literal["text", "jsonl", "claude", "codex", "opencode", "gemini", "droid"]


class Install(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the agent gets into an image: pinned packages, and steps after them."""

    npm: list[str] = []
    """`name@version`, exact."""
    pip: list[str] = []
    apt: list[str] = []
    steps: list[str] = []
    """Shell lines run as root after the packages."""
    node: bool = False
    """Whether Node is needed at run time, not only to install."""


class Turn(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The command line of one turn."""

    argv: Annotated[list[list[Placeholder]], Meta(min_length=1)]
    """Groups of arguments: a group whose placeholder is empty is left out whole."""


class Session(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a conversation is named and found again."""

    source: Literal["caller", "output", "none"] = "none"
    """`caller`: we choose a UUID; `output`: the CLI prints its own; `none`: it has no memory."""
    same_workspace: bool = False
    """Whether resuming works only from the directory the conversation began in."""
    renewed_each_turn: bool = False
    """Whether a resumed conversation gets a new id (`--fork`)."""


class JsonAnswer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the answer stands in a CLI's lines of JSON. Dots lead inward: `message.text`."""

    text: Placeholder
    """The text that counts is the last one found here. Empty: the output is plain text, not JSON."""
    last: dict[Placeholder, Placeholder] = {}
    """What the event holds that ends a turn, such as `type = "result"`; a turn without it has failed."""
    session: Placeholder = ""
    error: Placeholder = ""
    """A text here, in the last event where `last` is given, says that the turn failed."""


class ErrorPattern(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A regular expression over the error text or stderr, and the reason it stands for.

    A group named `seconds`, `minutes` or `epoch` tells when the provider takes requests again.
    """

    pattern: str
    reason: Literal[
        "auth", "rate-limited", "overloaded", "context-overflow", "session-lost", "refused",
        "max-turns", "provider-error",
    ]  # fmt: skip


class Agent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One coding agent, as data."""

    name: Token
    version: str
    """Of the CLI: part of the image's tag."""
    summary: str = ""
    install: Install = Install()
    first: Turn
    resume: Turn | None = None
    """None when the CLI cannot resume; each task is then a first turn."""
    prompt_via: Literal["stdin", "file"] = "stdin"
    """`file`: the prompt is written to a file whose path is `{prompt_file}`."""
    output: OutputFormat = "text"
    jsonl: JsonAnswer | None = None
    """For the output `jsonl`."""
    counts: Literal["turn", "conversation"] = "turn"
    """What its token counts are of: from those of a conversation the turns before are taken off."""
    verdict: Literal["result-block", "exit-code"] = "result-block"
    """`result-block`: the last `<result>{…}</result>` of the final text; `exit-code`: 0 is success."""
    session: Session = Session()
    env: dict[str, Placeholder] = {}
    """Set for every run: retry knobs lowered, updates and telemetry off. The worker's own `env` wins."""
    env_with: dict[str, dict[str, Placeholder]] = {}
    """Set in addition when the worker has a variable or secret of that name: what goes with a way to log in."""
    required_env: dict[str, str] = {}
    """Variables without which it cannot work, and what each is for."""
    key_env: list[str] = []
    """Names under which it takes a key; the first is what `--secret` suggests."""
    base_url_env: str | None = None
    instructions_file: Placeholder | None = None
    """The file that holds its standing instructions; a relative path is below the workspace."""
    state_dir: Placeholder | None = None
    """Where its conversations live; on the home volume."""
    conversation: list[str] = []
    """The files of one conversation, below `state_dir`: `*` within a name, `**` last for all below, and
    `{session}`. They are what travels when workers share a session, and nothing else does: no credentials, no
    settings. Empty: its conversations cannot be told apart, or were not tried, and are not shared."""
    config_files: dict[Placeholder, Placeholder] = {}
    """Files written before its first turn, path to content; existing ones are left alone. An empty
    placeholder drops nothing here. In a `.json` or `.toml` file a placeholder stands inside a string: what
    it stands for is escaped."""
    preflight: list[str] = []
    """A command that proves that the CLI is there; run before the worker is ready."""
    cancel_signal: Literal["SIGTERM", "SIGINT"] = "SIGTERM"
    cancel_grace: float = 5.0
    """Seconds between the signal and SIGKILL."""
    inactivity: float = 600.0
    """Seconds without output after which it counts as hung; retries against the provider are none."""
    root_env: dict[str, str] = {}
    """Set in addition when it runs as root."""
    repository_config: list[str] = []
    """Names of files and folders by which a repository configures it, wherever in the tree they are; set
    aside while it runs, unless the worker trusts the repository. `COMMON_CONFIG` goes without saying."""
    errors: list[ErrorPattern] = []
    retries: str | None = None
    """Regular expression for a line of stderr that tells of one more try at the provider."""
    session_lost: str | None = None
    """Regular expression over stderr that says the conversation to resume is unknown."""
    asks_for_result: bool = True
    """Whether the prompt gets the paragraph that explains the `<result>` block."""


class Capability(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tool set that can be baked into a worker's image, from `images/capabilities/NAME.toml`."""

    name: Token
    summary: str = ""
    apt: list[str] = []
    npm: list[str] = []
    pip: list[str] = []
    steps: list[str] = []
    check: str = ""
    """Shell line that must succeed inside the built image."""
    hosts: list[str] = []
    """Hosts its tools need to reach."""
