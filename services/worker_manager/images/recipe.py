"""From agent and capabilities to a Dockerfile and its tag. Pure: nothing here reads a file or asks an engine.

The tag is the hash of everything that goes in, so that two images of one tag are the same and any change,
of one byte, makes another. Dockerfiles keep to what the classic builder knows, which is what the engine's
API offers everywhere.
"""

import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from contracts.agent import Agent, Capability
from contracts.errors import ConfigurationInvalid

BUILDER_VERSION = 1
"""Goes into every tag; raised when an image must be built anew though no text changed."""
WORKER_REPOSITORY = "jetcrew/worker"
BASE_REPOSITORY = "jetcrew/worker-base"
TAG_LENGTH = 32

AGENT_PREFIX = "/opt/agent"
TOOLS_PREFIX = "/opt/tools"
SOURCES = "/opt/jetcrew/src"
WORKER_HOME = "/home/worker"
INSTALL_HOME = "/tmp/install"  # noqa: S108  # in an image, for as long as it is built
"""HOME of all that installs something, gone afterwards: what root left in the worker's would not be the worker's,
and a volume hides it."""
_PIP = "install --no-cache-dir --disable-pip-version-check --root-user-action=ignore"
_NPM = "npm install --global --no-audit --no-fund --no-update-notifier"


@dataclass(frozen=True)
class Check:
    """A shell line that must succeed in the built image."""

    name: str
    line: str


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One image: how it is built, what it is called, and what proves it."""

    repository: str
    dockerfile: str
    files: Mapping[str, bytes] = field(repr=False)
    """The build context besides the Dockerfile, by path."""
    ids: Mapping[str, str]
    """Ids of the images it starts from, by the names the Dockerfile uses."""
    arguments: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()

    @property
    def digest(self) -> str:
        """The tag's hash; a subject token."""
        content = {
            name: hashlib.sha256(data).hexdigest() for name, data in sorted(self.files.items())
        }
        checks = [[check.name, check.line] for check in self.checks]
        parts = [
            BUILDER_VERSION,
            self.dockerfile,
            content,
            dict(self.ids),
            dict(self.arguments),
            checks,
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:TAG_LENGTH]

    @property
    def tag(self) -> str:
        """`repository:hash`."""
        return f"{self.repository}:{self.digest}"


def base_recipe(dockerfile: str, requirements: bytes, *, base_image: str, base_id: str) -> Recipe:
    """What all worker images of this version stand on."""
    return Recipe(
        repository=BASE_REPOSITORY,
        dockerfile=dockerfile,
        files={"requirements.txt": requirements},
        ids={base_image: base_id},
        arguments={"BASE_IMAGE": base_image},
        labels={"jetcrew.kind": "worker-base"},
    )


def worker_recipe(
    base: Recipe,
    agent: Agent,
    agent_file: bytes,
    capabilities: Iterable[Capability],
    sources: Mapping[str, bytes],
    *,
    node_image: str,
    node_id: str | None,
) -> Recipe:
    """The image for an agent with some capabilities, in whatever order they are named.

    `sources` are the wrapper's files by path, copied last, since they change most often. `node_id` is
    needed where `needs_node` says so.

    Raises:
        ConfigurationInvalid: a step is more than one line.
    """
    chosen = sorted({capability.name: capability for capability in capabilities}.items())
    tools = [capability for _, capability in chosen]
    names = [capability.name for capability in tools]
    lines = [
        *_npm_stage("npm-agent", node_image, AGENT_PREFIX, agent.install.npm),
        *_npm_stage("npm-tools", node_image, TOOLS_PREFIX, _union(tool.npm for tool in tools)),
        *_node_stage(node_image, agent, tools),
        f"FROM {base.tag}",
        "USER root",
        f"ENV HOME={INSTALL_HOME}",
        *_agent_layer(agent),
        *_tool_layers(agent, tools),
        f"RUN rm -rf {INSTALL_HOME}",
        f"ENV HOME={WORKER_HOME}",
        "COPY agent.toml /opt/jetcrew/agent.toml",
        f"COPY src {SOURCES}",
        f"RUN python -m compileall -q --invalidation-mode unchecked-hash {SOURCES}",
        "USER 1000:1000",
    ]
    return Recipe(
        repository=WORKER_REPOSITORY,
        dockerfile="\n".join(lines) + "\n",
        files={"agent.toml": agent_file, **{f"src/{path}": data for path, data in sources.items()}},
        ids={base.tag: base.digest, **({node_image: node_id} if node_id else {})},
        labels={
            "jetcrew.kind": "worker-image",
            "jetcrew.agent": agent.name,
            "jetcrew.agent-version": agent.version,
            "jetcrew.capabilities": ",".join(names),
        },
        checks=_checks(agent, tools),
    )


def needs_node(agent: Agent, capabilities: Iterable[Capability]) -> bool:
    """Whether the build, or the worker itself, takes anything from a Node image."""
    return bool(agent.install.npm or agent.install.node or any(tool.npm for tool in capabilities))


def _npm_stage(name: str, image: str, prefix: str, packages: Sequence[str]) -> list[str]:
    if not packages:
        return []
    # An npm that asks before it runs a package's install script is told to; an older one ignores it.
    allowed = ",".join(_package_name(package) for package in packages)
    install = f"{_NPM} --prefix {prefix} --allow-scripts={shlex.quote(allowed)} {_quoted(packages)}"
    return [f"FROM {image} AS {name}", f"RUN {install}"]


def _node_stage(image: str, agent: Agent, tools: Sequence[Capability]) -> list[str]:
    if not _node_at_run_time(agent, tools):
        return []
    return [
        f"FROM {image} AS node",
        'RUN mkdir -p /opt/node/bin && cp -L "$(command -v node)" /opt/node/bin/node',
    ]


def _node_at_run_time(agent: Agent, tools: Sequence[Capability]) -> bool:
    return agent.install.node or any(tool.npm for tool in tools)


def _agent_layer(agent: Agent) -> list[str]:
    install = agent.install
    lines = _apt(install.apt)
    if install.npm:
        lines.append(f"COPY --from=npm-agent {AGENT_PREFIX} {AGENT_PREFIX}")
    if install.pip:
        venv = f"python -m venv {AGENT_PREFIX}"
        lines.append(
            f"RUN {venv} && {AGENT_PREFIX}/bin/python -m pip {_PIP} {_quoted(install.pip)}"
        )
    return lines + _steps(install.steps, f"agent {agent.name}")


def _tool_layers(agent: Agent, tools: Sequence[Capability]) -> list[str]:
    lines = _apt(_union(tool.apt for tool in tools))
    if _node_at_run_time(agent, tools):
        lines.append("COPY --from=node /opt/node/bin/node /usr/local/bin/node")
    if any(tool.npm for tool in tools):
        lines.append(f"COPY --from=npm-tools {TOOLS_PREFIX} {TOOLS_PREFIX}")
    if pip := _union(tool.pip for tool in tools):
        lines.append(f"RUN python -m pip {_PIP} {_quoted(pip)}")
    for tool in tools:
        lines += _steps(tool.steps, f"capability {tool.name}")
    return lines


def _apt(packages: Sequence[str]) -> list[str]:
    if not packages:
        return []
    install = f"apt-get install -y --no-install-recommends {_quoted(packages)}"
    update = "export DEBIAN_FRONTEND=noninteractive && apt-get update"
    return [f"RUN {update} && {install} && rm -rf /var/lib/apt/lists/*"]


def _steps(steps: Sequence[str], whose: str) -> list[str]:
    for number, step in enumerate(steps):
        if "\n" in step or not step.strip():
            raise ConfigurationInvalid(f"{whose}: steps[{number}]: a step is one line, not empty")
    return [f"RUN {step}" for step in steps]


def _checks(agent: Agent, tools: Sequence[Capability]) -> tuple[Check, ...]:
    checks = [Check("wrapper", "/opt/jetcrew/bin/python -I -c 'import wrapper.__main__'")]
    if agent.preflight:
        checks.append(Check(f"agent {agent.name}", shlex.join(agent.preflight)))
    checks += [Check(f"capability {tool.name}", tool.check) for tool in tools if tool.check]
    return tuple(checks)


def _union(lists: Iterable[Sequence[str]]) -> list[str]:
    return sorted({item for one in lists for item in one})


def _quoted(words: Iterable[str]) -> str:
    return " ".join(shlex.quote(word) for word in words)


def _package_name(package: str) -> str:
    """Of `name@version` or `@scope/name@version`."""
    at = package.find("@", 1)
    return package if at < 0 else package[:at]
