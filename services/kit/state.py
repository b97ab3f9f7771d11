"""The state directory: the one place where jetcrew writes on a host."""

import os
from dataclasses import dataclass
from pathlib import Path

from contracts.errors import ConfigurationInvalid


@dataclass(frozen=True)
class StateDirectory:
    """Paths below one directory; see docs/reference for what each holds."""

    root: Path

    @classmethod
    def at(cls, root: Path) -> "StateDirectory":
        """The state directory at `root`, made private to its owner.

        Raises:
            ConfigurationInvalid: it cannot be made there.
        """
        root = root.expanduser().absolute()
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationInvalid(
                f"{root} cannot be the state directory ({error.strerror}): "
                "set JETCREW_STATE_DIR to a directory of yours"
            ) from None
        return cls(root)

    @property
    def identity(self) -> Path:
        """Keys, account descriptions and credentials."""
        return self.root / "identity"

    def creds(self, role: str) -> Path:
        """Credentials file of one role of the control plane."""
        return self.identity / "creds" / f"{role}.creds"

    @property
    def nats(self) -> Path:
        """The embedded server's configuration, store and log."""
        return self.root / "nats"

    @property
    def workers(self) -> Path:
        """Run directories of the workers on this node."""
        return self.root / "workers"

    @property
    def crew_file(self) -> Path:
        """How the CLI finds the crew that runs on this directory."""
        return self.root / "crew.json"

    def write_private(self, path: Path, data: bytes) -> None:
        """Write `data` to `path`, readable by the owner only, whole or not at all."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
