"""Settings that every process of the control plane has, read once from the environment."""

import re
import socket
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from contracts.errors import ConfigurationInvalid
from contracts.topology import Topology
from services.kit.state import StateDirectory

P = TypeVar("P", bound="ProcessSettings")


def default_state_dir() -> Path:
    """`$XDG_STATE_HOME/jetcrew`, else `~/.local/state/jetcrew`."""
    return Path(_Xdg().xdg_state_home).expanduser() / "jetcrew"


def default_node() -> str:
    """The host's name, as far as it can be a subject token."""
    name = re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().lower()).strip("-")
    return name[:40] or "node"


class _Xdg(BaseSettings):
    xdg_state_home: str = "~/.local/state"


class LogSettings(BaseModel, frozen=True):
    """How a process logs, always to stderr."""

    json_lines: bool | None = None
    """JSON lines or a console's text; unset: JSON unless stderr is a terminal."""
    level: Literal["debug", "info", "warning", "error"] = "info"


class ProcessSettings(BaseSettings):
    """Common settings; each is the environment variable `JETCREW_` + its name, nested ones with `__`."""

    model_config = SettingsConfigDict(
        env_prefix="JETCREW_", env_nested_delimiter="__", frozen=True, extra="ignore"
    )

    state_dir: Path = Field(default_factory=default_state_dir)
    """The one directory that is written to."""
    url: str = "nats://127.0.0.1:4222"
    """Of the NATS server, or several, separated by commas."""
    creds: Path | None = None
    """Credentials file; unset: the role's own in the state directory."""
    prefix: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")] = "jetcrew"
    """First token of every subject."""
    replicas: Literal[1, 3, 5] = 1
    """Copies of each stream: 1 on a single server, 3 on a cluster."""
    node: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")] = Field(default_factory=default_node)
    """This host's name among the nodes of the crew."""
    log: LogSettings = LogSettings()

    @property
    def topology(self) -> Topology:
        """The streams and subjects that these settings mean."""
        return Topology(self.prefix, self.replicas)

    @property
    def state(self) -> StateDirectory:
        """The state directory, made if it is missing."""
        return StateDirectory.at(self.state_dir)


def load(kind: type[P]) -> P:
    """The settings of a process that the environment holds.

    Raises:
        ConfigurationInvalid: one of them is wrong; names the variable.
    """
    try:
        return kind()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        variable = "JETCREW_" + "__".join(str(part) for part in first["loc"]).upper()
        raise ConfigurationInvalid(f"{variable}: {first['msg']}") from None
    except (
        SettingsError
    ) as error:  # not even the JSON that a list or a group of settings is given as
        raise ConfigurationInvalid(f"{error}, from the variables JETCREW_…") from None
