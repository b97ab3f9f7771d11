"""The part of `jetcrew doctor` that looks at keys and credentials."""

import time
from collections.abc import Iterator
from pathlib import Path

from contracts.errors import ConfigurationInvalid
from contracts.topology import Topology
from services.cli.findings import NOTE, OK, WRONG, Finding
from services.kit.identity.accounts import OUTSIDE
from services.kit.identity.claims import Claims, jwt_of_creds, read
from services.kit.identity.store import ROLES, Identity, load_identity
from services.kit.state import StateDirectory

ANEW = "jetcrew init makes it anew; then start the crew again"


def identity(state: StateDirectory, topology: Topology) -> Iterator[Finding]:
    """Whether the crew's identity is whole, private, and all of one crew."""
    check = "identity"
    if not state.identity.is_dir():
        yield Finding(check, NOTE, "there is none yet", "jetcrew init, or just jetcrew run")
        return
    try:
        found = load_identity(state, topology)
        for name in found.keys:
            found.key(name)
    except ConfigurationInvalid as error:
        do = "put the file back from a backup: what it holds cannot be made anew"
        yield Finding(check, WRONG, str(error), do)
        return
    except OSError as error:
        do = f"make it a file that you can read: chown -R $USER {state.identity}"
        yield Finding(check, WRONG, f"{error.filename}: {error.strerror}", do)
        return
    wrong = [*_descriptions(found), *_roles(found), *_loose(state)]
    yield from wrong or [Finding(check, OK, f"crew {found.crew[:8]}")]


def credentials(creds: Path) -> Iterator[Finding]:
    """Whether a file that somebody was given can be used at all; nothing when it can."""
    check, do = "credentials", "ask the crew's owner for a new file"
    try:
        claims = read(jwt_of_creds(creds.read_text()))
        loose = creds.stat().st_mode & 0o077
    except OSError as error:
        yield Finding(check, WRONG, f"{creds}: {error.strerror}", "name another file (--creds)")
        return
    except (ValueError, KeyError):
        yield Finding(check, WRONG, f"{creds} is no credentials file", do)
        return
    if _expired(claims):
        yield Finding(check, WRONG, f"{creds} has expired", do)
    if loose:
        yield Finding(check, WRONG, f"{creds} is open to others", f"chmod 600 {creds}")


def _descriptions(found: Identity) -> Iterator[Finding]:
    """What the server is told of the accounts."""
    try:
        found.trust(found.state.nats)
    except ConfigurationInvalid as error:
        yield Finding("identity", WRONG, str(error), ANEW)


def _roles(found: Identity) -> Iterator[Finding]:
    for role, account in ROLES.items():
        path = found.state.creds(role)
        issuer = found.keys[f"{account}-users" if account in OUTSIDE else account]
        if (why := _unusable(path, issuer)) is not None:
            yield Finding("identity", WRONG, f"{path} {why}", f"rm -rf {path}; {ANEW}")


def _unusable(path: Path, issuer: str) -> str | None:
    try:
        claims = read(jwt_of_creds(path.read_text()))
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except (ValueError, KeyError):
        return "is damaged"
    if _expired(claims):
        return "has expired"
    return None if claims.get("iss") == issuer else "is of another account, or another crew"


def _expired(claims: Claims) -> bool:
    expires = claims.get("exp")
    return isinstance(expires, int | float) and expires < time.time()


def _loose(state: StateDirectory) -> Iterator[Finding]:
    private = [p for folder in ("keys", "creds") for p in (state.identity / folder).glob("*")]
    if loose := [str(path) for path in sorted(private) if path.stat().st_mode & 0o077]:
        text = f"open to others: {', '.join(loose[:3])}"
        yield Finding("identity", WRONG, text, f"chmod -R go= {state.identity}")
