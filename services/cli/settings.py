"""What the command line takes from the environment.

Read without the settings library of the services: its import would take longer than most commands.
"""

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.kit.disk import RESERVE


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The variables that matter here, once read."""

    variables: Mapping[str, str] = field(repr=False)

    @classmethod
    def read(cls) -> "Environment":
        """Of this process."""
        return cls(variables=dict(os.environ))  # this is the settings module

    def _path(self, name: str) -> Path | None:
        value = self.variables.get(name)
        return Path(value).expanduser() if value else None

    @property
    def state_dir(self) -> Path:
        """`JETCREW_STATE_DIR`, else `$XDG_STATE_HOME/jetcrew`, else `~/.local/state/jetcrew`."""
        if given := self._path("JETCREW_STATE_DIR"):
            return given.absolute()
        home = self._path("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
        return home.absolute() / "jetcrew"

    @property
    def url(self) -> str | None:
        """`JETCREW_URL`: the NATS server of a crew that runs elsewhere."""
        return self.variables.get("JETCREW_URL") or None

    @property
    def creds(self) -> Path | None:
        """`JETCREW_CREDS`: the credentials file for it."""
        return self._path("JETCREW_CREDS")

    @property
    def context(self) -> str | None:
        """`JETCREW_CONTEXT`: the name of a context of the nats CLI."""
        return self.variables.get("JETCREW_CONTEXT") or None

    @property
    def prefix(self) -> str:
        """`JETCREW_PREFIX`: the first token of every subject."""
        return self.variables.get("JETCREW_PREFIX") or "jetcrew"

    @property
    def replicas(self) -> int:
        """`JETCREW_REPLICAS`: copies of each stream."""
        value = self.variables.get("JETCREW_REPLICAS", "")
        return int(value) if value.isdigit() else 1

    @property
    def disk_reserve(self) -> float:
        """`JETCREW_DISK_RESERVE`: what has to be free on a disk before a worker is made."""
        try:
            return float(self.variables.get("JETCREW_DISK_RESERVE", RESERVE))
        except ValueError:
            return RESERVE

    @property
    def has_api_token(self) -> bool:
        """Whether `JETCREW_API__TOKEN` is set."""
        return bool(self.variables.get("JETCREW_API__TOKEN"))

    @property
    def nats_config(self) -> Path:
        """Where the nats CLI keeps its contexts; without XDG it goes by the passwd file, not by `$HOME`."""
        home = self._path("XDG_CONFIG_HOME") or Path(pwd.getpwuid(os.getuid()).pw_dir) / ".config"
        return home / "nats"

    def for_child(self, **overrides: str) -> dict[str, str]:
        """The environment of a process of our own crew: ours, less what would point it at another crew."""
        inherited = {
            name: value
            for name, value in self.variables.items()
            if name not in {"JETCREW_URL", "JETCREW_CREDS", "JETCREW_CONTEXT"}
        }
        return inherited | overrides
