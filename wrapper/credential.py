"""Renewing the bus credential: a new JWT for the same key, in time."""

import asyncio
import base64
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

log = structlog.get_logger(__name__)

RENEW_AT = 2 / 3
"""Share of its life after which a credential is renewed."""
AGAIN_AFTER = 5.0
"""Seconds until the next try when there was no answer."""

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


async def keep_valid(bus: Bus, place: Place, boot: str) -> None:
    """Renew the credential for as long as the process lives; returns at once when it does not expire."""
    file = place.creds
    while file is not None and (life := life_of(_read(file))) is not None:
        await asyncio.sleep(max(0.0, life.renew_at - time.time()))
        if not await _renew(bus, place, file, boot):
            await asyncio.sleep(min(AGAIN_AFTER, max(0.5, (life.ends - life.begins) / 20)))


async def _renew(bus: Bus, place: Place, file: Path, boot: str) -> bool:
    subject = bus.subjects.ask(WorkerId(place.boot.worker), "credential")
    try:
        answer = await bus.ask(subject, RenewCredential(boot=boot), CredentialAnswer)
    except (BusUnavailable, InvalidMessage) as error:
        log.warning("credential.not_renewed", error=str(error))
        return False
    creds = with_jwt(_read(file), answer.jwt)
    if not answer.jwt or life_of(creds) is None:
        log.warning("credential.not_renewed", error=answer.reason or "the answer holds no JWT")
        return False
    place.secrets.add(*credential_parts(creds))
    _replace(file, creds)
    await bus.renewed_credentials()
    log.info("credential.renewed")
    return True


def _read(file: Path) -> str:
    return file.read_text()


def _replace(file: Path, text: str) -> None:
    """In one step: the client may read it at any moment."""
    new = file.with_name(f".{file.name}.new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write(text)
    new.rename(file)
