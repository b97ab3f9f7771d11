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


def still_needed(revocations: Mapping[str, int], now: float) -> dict[str, int]:
    """Those that can still keep somebody out: what was issued before the others has expired by itself.

    Times are Unix times in seconds.
    """
    return {key: at for key, at in revocations.items() if at + LIFE + SLACK > now}
