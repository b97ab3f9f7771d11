"""Renewing the bus credential: a new JWT for the same key, in time."""

import asyncio
import base64
import contextlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import structlog

from contracts.asks import CredentialAnswer, RenewCredential
from contracts.bus import Bus
from contracts.errors import BusUnavailable, InvalidMessage
from contracts.ids import WorkerId
from wrapper.boot import Place, credential_parts
from wrapper.state import Cover

log = structlog.get_logger(__name__)

RENEW_AT = 2 / 3
"""Share of its life after which a credential is renewed."""
AGAIN_AFTER = 5.0
"""Seconds until the next try when there was no answer."""

COVERED = 600.0
"""Seconds past its task's deadline that a worker's credential should last."""

LATE = 60.0
"""Seconds that a server's clock may be behind ours."""

_JWT = re.compile(r"(-----BEGIN NATS USER JWT-----\s+)(\S+)(\s+-+END NATS USER JWT-+)")


@dataclass(frozen=True)
class Life:
    """When a credential was made and when it ends, in Unix seconds."""

    begins: float
    ends: float

    @property
    def renew_at(self) -> float:
        """When to ask for the next one."""
        return self.begins + (self.ends - self.begins) * RENEW_AT

    @property
    def useless_at(self) -> float:
        """When no clock that is a little late lets it in any more."""
        return self.ends + min(LATE, (self.ends - self.begins) / 10)


def life_of(creds: str) -> Life | None:
    """When a credentials file's JWT ends; None when it never does, or is none."""
    match = _JWT.search(creds)
    if match is None:
        return None
    try:
        middle = match[2].split(".")[1]
        claims: dict[str, Any] = msgspec.json.decode(
            base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4))
        )
        return Life(float(claims["iat"]), float(claims["exp"])) if claims.get("exp") else None
    except (IndexError, KeyError, TypeError, ValueError):
        return None


def with_jwt(creds: str, jwt: str) -> str:
    """The credentials file with another JWT and the same seed."""
    return _JWT.sub(lambda match: f"{match[1]}{jwt}{match[3]}", creds)


async def keep_valid(bus: Bus, place: Place, boot: str, cover: Cover) -> None:
    """Renew the credential for as long as the process lives; returns at once when it does not expire.

    A task that is started has it renewed early, if need be: if the crew is away from then on, for longer than
    credentials last, the worker can still come back with its end. The connection is made anew late, when the one
    it was made with is about to expire.

    Raises:
        BusUnavailable: the crew was away until it had expired: nobody will ever listen to this worker again.
    """
    file = place.creds
    if file is None or (used := life_of(_read(file))) is None:
        return
    held = used
    while True:
        cover.asked.clear()
        due = time.time() >= used.renew_at
        until = cover.until
        wanted = held.ends < until + COVERED
        renewed = await _renew(bus, place, file, boot) if due or wanted else None
        if renewed is not None:
            held = renewed
            if cover.until == until:  # it lasts as long as one may
                cover.until = 0.0
        if due and held is not used:
            await bus.renewed_credentials()
            used = held
        if not bus.connected and time.time() > held.useless_at:
            raise BusUnavailable("the credential has expired while there was no bus")
        if renewed is None and (due or wanted):
            rest = min(AGAIN_AFTER, max(0.5, (held.ends - held.begins) / 20))
        else:
            rest = used.renew_at - time.time()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, rest)):
                await cover.asked.wait()


async def _renew(bus: Bus, place: Place, file: Path, boot: str) -> Life | None:
    """Have a new JWT in the file; None when there was none to be had."""
    subject = bus.subjects.ask(WorkerId(place.boot.worker), "credential")
    try:
        answer = await bus.ask(subject, RenewCredential(boot=boot), CredentialAnswer)
    except (BusUnavailable, InvalidMessage) as error:
        log.warning("credential.not_renewed", error=str(error))
        return None
    creds = with_jwt(_read(file), answer.jwt)
    if not answer.jwt or (life := life_of(creds)) is None:
        log.warning("credential.not_renewed", error=answer.reason or "the answer holds no JWT")
        return None
    place.secrets.add(*credential_parts(creds))
    _replace(file, creds)
    log.info("credential.renewed", until=life.ends)
    return life


def _read(file: Path) -> str:
    return file.read_text()


def _replace(file: Path, text: str) -> None:
    """In one step: the client may read it at any moment."""
    new = file.with_name(f".{file.name}.new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write(text)
    new.rename(file)
