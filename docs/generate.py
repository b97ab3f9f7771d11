"""Writes docs/reference from the code, so that the two cannot disagree; `just docs` runs it.

generate.py           write what is stale
generate.py --check   change nothing; exit 1 when something is stale
generate.py --break   write even where the contracts break the rule of their change
"""

import ast
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from contracts.agent import Agent
from contracts.schema import MESSAGES, document, dumps, violations
from contracts.topology import COMMANDS, DOOR_ONLY, Bucket, Consumer, ObjectStore, Stream, Topology
from services.api.document import published
from services.kit.catalog import Catalog

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"
CONTRACTS = "contracts.json"
UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
TIMES = ((86_400, "d"), (3_600, "h"), (60, "min"))


def main(arguments: list[str]) -> str | None:
    """Do what the arguments say; the text returned, if any, is an error."""
    stale = [name for name, text in pages().items() if text != written(name)]
    if "--check" in arguments:
        return f"docs: stale: {', '.join(stale)}; run `just docs`" if stale else None
    if (found := broken()) and "--break" not in arguments:
        return "docs: the contracts break their rule of change:\n  " + "\n  ".join(found)
    for name in stale:
        (REFERENCE / name).write_text(pages()[name], encoding="utf-8")
        print(f"docs/reference/{name}")
    return None


def pages() -> dict[str, str]:
    """Every generated file, by its name."""
    return {
        CONTRACTS: dumps(document()),
        "bus.md": bus(Topology()),
        "http.json": published(),
        "settings.md": settings(),
        "agents.md": agents(),
    }


def written(name: str) -> str:
    """What a file holds now."""
    path = REFERENCE / name
    return path.read_text(encoding="utf-8") if path.exists() else ""


def broken() -> list[str]:
    """Where the contracts no longer read what was written by the published ones."""
    return violations(json.loads(written(CONTRACTS)), document()) if written(CONTRACTS) else []


def bus(topology: Topology) -> str:
    """Subjects, streams, consumers, buckets and object stores."""
    sections = [
        "# The bus\n\nGenerated from `contracts/topology.py` and `contracts/schema.py`; `just docs` writes it.",
        "## Commands\n\nEach has two doors: `jetcrew.cmd.…` is durable, `jetcrew.api.…` waits for the result.",
        table(("durable", "synchronous"), commands(topology)),
        "## Messages\n\nThe schemas are in [contracts.json](contracts.json).",
        table(("message", "type"), ((f"`{name}`", kinds(name)) for name in MESSAGES)),
        "## Streams",
        table(
            ("stream", "subjects", "keeps", "bounds", "when full"), map(stream, topology.streams)
        ),
        "## Consumers\n\nOf the control plane; each worker has one more, on JC_RUN.",
        table(
            ("stream", "consumer", "filters", "ack wait", "deliveries", "unacknowledged"),
            map(consumer, topology.consumers),
        ),
        "## Buckets\n\nHistory 1; written by the control plane only, by compare-and-set.",
        table(
            ("bucket", "changes appear on", "keys expire"),
            (bucket(topology, b) for b in topology.buckets),
        ),
        "## Object stores\n\nWritten by the control plane only; `nats object ls` and `get` read them.",
        table(
            ("store", "stream", "subjects", "keeps", "bounds", "when full"),
            map(object_store, topology.objects),
        ),
    ]
    return "\n\n".join(sections) + "\n"


def agents() -> str:
    """What is known of each agent, and what it kept when the matrix was last run."""
    kept = json.loads(written("agents.json") or '{"agents": {}}')["agents"]
    known = Catalog.load().agents
    rows = list(dict.fromkeys(row for agent in kept.values() for row in agent["rows"]))
    sections = [
        "# Agents\n\nGenerated from `images/agents/*.toml` and `agents.json`; `just docs` writes it.",
        table(
            ("agent", "version", "what it is", "output", "key", "address of the provider",
             "instructions", "resumes", "shares sessions", "needs Node"),
            map(agent_row, known.values()),
        ),
        "## Variables\n\nSet for each run; a worker's own `env` wins. Those of an address and of a model are how an "
        "agent is sent to another provider, or to a gateway.",
        table(
            ("agent", "variable", "value", "set when the worker has"),
            (row for agent in known.values() for row in variables_of(agent)),
        ),
        "## What they keep\n\nEach row is a test against a scripted provider, with the real agent; `just agents` "
        "runs them and writes `agents.json`. A number is the seconds it took, the start of the agent included, on "
        "a machine of two busy cores; — is not run.\n\nThe row of two tasks at once runs in a hardened container "
        "that is built from the agent's file; the others run the agent under the wrapper's own code, in no "
        "container. The normal tests hold every row for claude and codex (the container: for codex, factory and, "
        "in other tests, claude), and for the rest the row of a tool call that is remembered; `just soak` holds all.",
        table(
            ("promise", *(f"{name} {agent['version']}" for name, agent in kept.items())),
            (
                (row, *(outcome(agent["rows"].get(row)) for agent in kept.values()))
                for row in rows
            ),
        ),
    ]  # fmt: skip
    return "\n\n".join(sections) + "\n"


def agent_row(agent: Agent) -> tuple[str, ...]:
    """A row of the agents' table."""
    address = f"`{agent.base_url_env}`" if agent.base_url_env else ""
    file = f"`{agent.instructions_file}`" if agent.instructions_file else ""
    version = agent.version if agent.install.npm else ""
    resumes, shares, node = (
        "yes" if each else "no" for each in (agent.resume, agent.conversation, agent.install.node)
    )
    keys = code(agent.key_env)
    return (
        f"`{agent.name}`",
        version,
        agent.summary,
        agent.output,
        keys,
        address,
        file,
        resumes,
        shares,
        node,
    )


def variables_of(agent: Agent) -> Iterable[tuple[str, ...]]:
    """The rows of an agent in the variables' table."""
    for when, given in (("", agent.env), *agent.env_with.items()):
        for name, value in given.items():
            yield (
                f"`{agent.name}`",
                f"`{name}`",
                f"`{value}`" if value else "",
                when and f"`{when}`",
            )
    for name, purpose in agent.required_env.items():
        yield f"`{agent.name}`", f"`{name}`", f"required: {purpose}", ""


def outcome(of: dict[str, Any] | None) -> str:
    """How one row went with one agent."""
    if of is None:
        return "—"
    return f"{of['seconds']} s" if of["kept"] else "**broken**"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def commands(topology: Topology) -> list[tuple[str, str]]:
    """Both doors of every command."""
    of = topology.subjects
    both = [(entity, verb) for entity, verbs in COMMANDS.items() for verb in verbs]
    one = [(entity, verb) for entity, verbs in DOOR_ONLY.items() for verb in verbs]
    rows = [(f"`{of.command(*pair)}`", f"`{of.door(*pair)}`") for pair in both]
    return rows + [("none: it must not be stored", f"`{of.door(*pair)}`") for pair in one]


def kinds(message: str) -> str:
    """The type, or types, of a message."""
    schema = document()["messages"][message]
    return ", ".join(one["$ref"].split("/")[-1] for one in schema.get("anyOf", [schema]))


def stream(of: Stream) -> tuple[str, ...]:
    """A row of the streams' table."""
    keeps = "until it is handled" if of.retention == "workqueue" else "history"
    if of.max_age:
        keeps += f", {duration(of.max_age)} at most"
    bounds = [size(of.max_bytes)] if of.max_bytes else []
    bounds += [f"{of.max_msgs:,} messages"] if of.max_msgs else []
    bounds += [f"{of.max_msgs_per_subject} a subject"] if of.max_msgs_per_subject else []
    bounds += [f"{size(of.max_msg_size)} a message"] if of.max_msg_size else []
    full = "refuses the new" if of.discard == "new" else "drops the oldest"
    return f"`{of.name}`", code(of.subjects), keeps, ", ".join(bounds), full


def consumer(of: Consumer) -> tuple[str, ...]:
    """A row of the consumers' table."""
    deliveries = "no limit" if of.max_deliver < 0 else str(of.max_deliver)
    filters = code(of.filters) or "all"
    pending = str(of.max_ack_pending)
    return f"`{of.stream}`", f"`{of.name}`", filters, duration(of.ack_wait), deliveries, pending


def bucket(topology: Topology, of: Bucket) -> tuple[str, ...]:
    """A row of the buckets' table."""
    shown = f"`{topology.prefix}.kv.{of.name}.>`" if of.republished else "nothing"
    return f"`{of.name}`", shown, "yes" if of.per_key_ttl else "no"


def object_store(of: ObjectStore) -> tuple[str, ...]:
    """A row of the object stores' table."""
    keeps = f"{duration(of.max_age)} at most"
    names = f"`{of.name}`", f"`{of.stream}`", code(of.subjects)
    return *names, keeps, size(of.max_bytes), "refuses the new"


def code(names: Iterable[str]) -> str:
    """Names as Markdown code."""
    return " ".join(f"`{name}`" for name in names)


def size(count: int) -> str:
    """Bytes in the largest unit that divides them."""
    return next(
        (f"{count // unit} {name}" for unit, name in UNITS if count % unit == 0), f"{count} B"
    )


def duration(seconds: float) -> str:
    """Seconds in the largest unit that divides them."""
    return next(
        (f"{seconds / unit:g} {name}" for unit, name in TIMES if seconds % unit == 0),
        f"{seconds:g} s",
    )


def settings() -> str:
    """Every environment variable, from the settings classes of all services."""
    sections = [
        "# Settings\n\nGenerated from `services/*/settings.py`; `just docs` writes it. Read once, from the environment."
    ]
    for path in sorted(
        ROOT.glob("services/*/settings.py"), key=lambda path: path.parent.name != "kit"
    ):
        defined = {
            node.name: node
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.ClassDef | ast.FunctionDef)
        }
        for name, node in defined.items():
            if isinstance(node, ast.ClassDef) and name.endswith("Settings") and _is_process(node):
                title = "Every process" if path.parent.name == "kit" else path.parent.name
                head = ("variable", "default", "meaning")
                sections += [f"## {title}", table(head, variables(node, defined, "JETCREW_"))]
    return "\n\n".join(sections) + "\n"


def _is_process(node: ast.ClassDef) -> bool:
    return any("Settings" in ast.unparse(base) for base in node.bases)


def variables(
    of: ast.ClassDef, defined: dict[str, ast.ClassDef | ast.FunctionDef], prefix: str
) -> Iterable[tuple[str, ...]]:
    """A row for each field, those of nested models included."""
    for field, after in zip(of.body, [*of.body[1:], ast.Pass()], strict=True):
        if not isinstance(field, ast.AnnAssign):
            continue
        name = prefix + ast.unparse(field.target).upper()
        if isinstance(nested := defined.get(ast.unparse(field.annotation)), ast.ClassDef):
            yield from variables(nested, defined, f"{name}__")
            continue
        documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        meaning = " ".join(str(ast.literal_eval(after.value)).split()) if documented else ""  # type: ignore[attr-defined]
        yield f"`{name}`", default(field.value, defined), meaning


def default(value: ast.expr | None, defined: dict[str, ast.ClassDef | ast.FunctionDef]) -> str:
    """What holds when the variable is not set."""
    if value is None:
        return "required"
    if isinstance(value, ast.Call):
        for keyword in value.keywords:
            factory = defined.get(ast.unparse(keyword.value))
            if keyword.arg == "default_factory" and factory is not None:
                return (ast.get_docstring(factory) or "").rstrip(".")
    text = ast.unparse(value)
    return "unset" if text in {"None", "()"} else f"`{text.strip(chr(39))}`"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
