"""Taking a worker's credential back: the account WORKERS, pushed to the servers with a list of revocations.

Whoever pushes must have the complete list: an entry that is missing from it lets that worker back in.
"""

from collections.abc import Mapping
from typing import Protocol, TypeVar

import msgspec

from contracts.errors import ConfigurationInvalid
from services.kit.identity.claims import read
from services.kit.identity.workers import LIFE

UPDATE = "$SYS.REQ.CLAIMS.UPDATE"
SLACK = 60.0
"""Seconds by which clocks of servers and managers may differ."""

T = TypeVar("T")


class Revoked(msgspec.Struct, frozen=True, kw_only=True):
    """A user key that is to be kept out of all that was issued for it. Times are Unix times in seconds."""

    at: int
    """Of what was issued until then."""
    until: int = 0
    """When the last of that expires by itself; 0: it lives as long as any does where nothing else is said."""


class Asks(Protocol):
    """A connection that can ask; `contracts.bus.Bus` with the system account's credential."""

    async def ask(self, subject: str, message: bytes, kind: type[T], *, timeout: float) -> T:
        """The answer, decoded."""
        ...


class _Done(msgspec.Struct, frozen=True):
    account: str = ""
    code: int = 0


class _Failed(msgspec.Struct, frozen=True):
    code: int = 0
    description: str = ""


class _Answer(msgspec.Struct, frozen=True):
    data: _Done | None = None
    error: _Failed | None = None


async def push_account(system: Asks, jwt: str, *, timeout: float = 5.0) -> None:
    """Give the servers this account; connections that it revokes are closed at once.

    `system` must be connected with the system account's credential; `timeout` in seconds.

    Raises:
        BusUnavailable: no server answers, or the credential is not the system account's.
        ConfigurationInvalid: the server does not take it.
    """
    answer = await system.ask(UPDATE, jwt.encode(), _Answer, timeout=timeout)
    account = read(jwt)["sub"]
    if answer.data is None or answer.data.code != 200 or answer.data.account != account:
        why = answer.error.description if answer.error else "it answers something else"
        raise ConfigurationInvalid(f"the server does not take the account {account}: {why}")


def still_needed(revocations: Mapping[str, Revoked], now: float) -> dict[str, int]:
    """Those that can still keep somebody out, by user key, with the time until which they do: what the others
    revoked has expired by itself. `now` is Unix time in seconds.
    """
    return {
        key: revoked.at
        for key, revoked in revocations.items()
        if (revoked.until or revoked.at + LIFE) + SLACK > now
    }
