"""The identity of a crew, kept in the state directory: made once, found again ever after.

identity/crew.json             the crew's token and all public keys
identity/keys/NAME.seed        private keys
identity/creds/ROLE.creds      credentials of the control plane's processes and of operators
identity/jwt/NAME.jwt          what the server is told of operator and accounts
"""

import fcntl
import json
import os
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from contracts.errors import ConfigurationInvalid, InvalidMessage
from contracts.ids import is_token, nonce
from contracts.topology import Topology
from services.kit.identity.accounts import ACCOUNTS, OUTSIDE, Account, Accounts
from services.kit.identity.claims import Claims, creds_text, jwt_of_creds, read, signed
from services.kit.identity.keys import KeyPair, Kind, new_pair, pair_of
from services.kit.identity.server import trust_config
from services.kit.identity.workers import WorkerMinter
from services.kit.state import StateDirectory

Role = Literal["manager", "infra", "projects", "system", "operator", "api"]

ROLES: dict[Role, Account] = {
    "manager": "JETCREW",
    "infra": "JETCREW",
    "projects": "JETCREW",
    "system": "SYS",
    "operator": "OPERATORS",
    "api": "READERS",
}
"""Who has a credential from the start, and the account it is of."""

_KEYS: dict[str, Kind] = {
    "operator": "operator",
    "operator-signing": "operator",
    **dict.fromkeys(ACCOUNTS, "account"),
    **{f"{account}-users": "account" for account in OUTSIDE},
}


class _Crew(msgspec.Struct, frozen=True):
    crew: str
    keys: dict[str, str]


@dataclass(frozen=True)
class Identity:
    """Reads what it needs when it needs it, so that a host which has no right to something (the operator's
    key, say) can simply lack its file."""

    state: StateDirectory
    topology: Topology
    crew: str
    """Random token that tells this installation from any other: what its containers are labelled with."""
    keys: Mapping[str, str]
    """Public keys by name."""

    def public(self, account: Account) -> str:
        """An account's public key."""
        return self.keys[account]

    def key(self, name: str) -> KeyPair:
        """A private key.

        Raises:
            ConfigurationInvalid: it is not on this host, or not the one that belongs here.
        """
        path = self.state.identity / "keys" / f"{name}.seed"
        try:
            pair = pair_of(path.read_text())
        except OSError as error:
            raise ConfigurationInvalid(f"cannot read the key {path}: {error.strerror}") from error
        if pair.public != self.keys[name]:
            raise ConfigurationInvalid(f"{path} is not the key that {self._file} speaks of")
        return pair

    def trust(self, directory: Path) -> str:
        """The part of a server's configuration that makes it believe in this crew.

        Raises:
            ConfigurationInvalid: a file is missing.
        """
        jwts = self.state.identity / "jwt"
        try:
            operator = (jwts / "operator.jwt").read_text()
            accounts = {self.keys[name]: (jwts / f"{name}.jwt").read_text() for name in ACCOUNTS}
        except OSError as error:
            raise ConfigurationInvalid(f"{error.filename}: {error.strerror}") from error
        return trust_config(
            operator=operator,
            system_account=self.keys["SYS"],
            accounts=accounts,
            directory=directory,
        )

    def minter(self, verbs: Collection[str]) -> WorkerMinter:
        """Makes workers' credentials; `verbs` are all that a worker can ever be allowed."""
        return WorkerMinter(self.key("WORKERS-users"), self.keys["WORKERS"], verbs)

    def workers_account_jwt(self, revocations: Mapping[str, int]) -> str:
        """The account WORKERS with exactly these revocations (public key to Unix time in seconds).

        What is missing is lifted: only one process may make and push these, out of one complete list.
        """
        accounts = Accounts(self.topology, self.keys)
        # A server that starts again prefers the account in its configuration to one of the same second.
        later = time.time() + 1
        return accounts.jwt("WORKERS", self.key("operator-signing"), revocations, issued_at=later)

    def operator(self, name: str) -> Path:
        """The credentials file of one operator, made if need be; its inbox is `_INBOX.ops.<name>`.

        Raises:
            InvalidMessage: the name cannot be one token of a subject.
        """
        return self._credentials(
            "OPERATORS", name, "operator" if name == "operator" else f"operator-{name}"
        )

    def reader(self, name: str) -> Path:
        """The credentials file of one who may look and do nothing else; its inbox is `_INBOX.<name>`.

        Raises:
            InvalidMessage: the name cannot be one token of a subject.
        """
        return self._credentials("READERS", name, "api" if name == "api" else f"reader-{name}")

    def _credentials(self, account: Account, name: str, file: str) -> Path:
        if not is_token(name):
            raise InvalidMessage(f"no name for a credential: {name!r}", field="$.name")
        path = self.state.creds(file)
        issuer = f"{account}-users" if account in OUTSIDE else account
        if _issuer_of(path) != self.keys[issuer]:
            user = new_pair("user")
            jwt = signed(self.key(issuer), subject=user.public, name=name, nats=self._user(account))
            self.state.write_private(path, creds_text(jwt, user.seed).encode())
        return path

    def _user(self, account: Account) -> Claims:
        if account in OUTSIDE:  # everything else is in the signing key's template
            return {"type": "user", "issuer_account": self.keys[account], "pub": {}, "sub": {}}
        return {"type": "user", "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1}

    @property
    def _file(self) -> Path:
        return self.state.identity / "crew.json"


def load_identity(state: StateDirectory, topology: Topology) -> Identity:
    """The identity that is there.

    Raises:
        ConfigurationInvalid: there is none, or it is damaged.
    """
    path = state.identity / "crew.json"
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_Crew)
    except FileNotFoundError:
        raise ConfigurationInvalid(
            f"{state.root} holds no crew's identity: run `jetcrew init`"
        ) from None
    except msgspec.MsgspecError as error:
        raise ConfigurationInvalid(f"{path} is damaged: {error}") from error
    if missing := sorted(_KEYS.keys() - found.keys.keys()):
        raise ConfigurationInvalid(f"{path} lacks the keys {', '.join(missing)}")
    return Identity(state, topology, found.crew, found.keys)


def create_identity(state: StateDirectory, topology: Topology) -> Identity:
    """The identity in the state directory; what is missing of it is made, what is there stays.

    Account descriptions are made anew only when this version describes an account otherwise.

    Raises:
        ConfigurationInvalid: what is there is damaged.
    """
    directory = state.identity
    for path in (directory, directory / "keys", directory / "creds", directory / "jwt"):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(directory / "lock"):
        if not (directory / "crew.json").exists():
            _make_keys(state)
        identity = load_identity(state, topology)
        _describe(identity)
        for role, account in ROLES.items():
            identity._credentials(account, role, role)  # noqa: SLF001  # of this module
    return identity


def _make_keys(state: StateDirectory) -> None:
    public = {}
    for name, kind in _KEYS.items():
        pair = new_pair(kind)
        state.write_private(state.identity / "keys" / f"{name}.seed", pair.seed.encode())
        public[name] = pair.public
    crew = json.dumps({"crew": nonce(), "keys": public}, indent=1)
    state.write_private(state.identity / "crew.json", crew.encode())


def _describe(identity: Identity) -> None:
    """Write the JWTs of operator and accounts. A new one is later than all that were pushed before, and a
    server prefers it to them: so one that would say the same stays."""
    accounts = Accounts(identity.topology, identity.keys)
    operator = {
        "type": "operator",
        "signing_keys": [identity.keys["operator-signing"]],
        "system_account": identity.keys["SYS"],
    }
    wanted: dict[str, Claims] = {
        "operator": operator,
        **{name: accounts.claims(name) for name in ACCOUNTS},
    }
    for name, claims in wanted.items():
        path = identity.state.identity / "jwt" / f"{name}.jwt"
        if _said(path) == {"version": 2, **claims}:
            continue
        signer = identity.key("operator" if name == "operator" else "operator-signing")
        jwt = signed(signer, subject=identity.keys[name], name=name, nats=claims)
        identity.state.write_private(path, jwt.encode())


def _said(path: Path) -> Any:
    try:
        return read(path.read_text())["nats"]
    except (OSError, ValueError, KeyError):
        return None


def _issuer_of(creds: Path) -> Any:
    try:
        return read(jwt_of_creds(creds.read_text()))["iss"]
    except (OSError, ValueError, KeyError):
        return None


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time; held for milliseconds."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
