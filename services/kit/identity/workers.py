"""Credentials of workers: made in a millisecond, narrow, short-lived."""

import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from contracts.errors import ConfigurationInvalid, InvalidMessage
from contracts.ids import is_token
from contracts.task import LONGEST_TIMEOUT
from services.kit.identity.claims import signed
from services.kit.identity.keys import KeyPair, is_user_key, new_pair

LIFE = 900.0
"""Seconds that a worker's credential lasts where nothing else is said."""
MARGIN = 900.0
"""Seconds that it outlives the deadline of what its worker does, for an outage that lasts until then."""
LONGEST = LONGEST_TIMEOUT + MARGIN
"""Seconds; none is ever given more."""
ALWAYS_ALLOWED = ("task.start", "credential", "artifact.put", "artifact.keep", "artifact.get")
"""Verbs without which a worker cannot work."""

_VERB = re.compile(r"[a-z]+(\.[a-z]+)*")


@dataclass(frozen=True)
class Credential:
    """A worker's right to speak, without the key that proves who holds it."""

    jwt: str = field(repr=False)
    expires_at: float
    """Unix time in seconds."""


class WorkerMinter:
    """Makes credentials of workers, and nothing wider: its key can sign users of one template only, and
    what that template takes from a user (name, verbs, nonce) is checked here, since a `*` there would
    stand for everybody."""

    def __init__(
        self,
        signer: KeyPair,
        account: str,
        verbs: Collection[str],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`account` is the public key of WORKERS; `verbs` are all that a worker can ever be allowed.

        Raises:
            ConfigurationInvalid: one of the verbs is not lower-case words joined by dots.
        """
        if wrong := [verb for verb in verbs if not _VERB.fullmatch(verb)]:
            raise ConfigurationInvalid(f"no verbs: {', '.join(sorted(wrong))}")
        self._signer = signer
        self._account = account
        self._known = frozenset(verbs) | frozenset(ALWAYS_ALLOWED)
        self._clock = clock

    def mint(
        self,
        worker: str,
        user_key: str,
        verbs: Sequence[str],
        ctl_nonce: str,
        ttl: float = LIFE,
    ) -> Credential:
        """A credential for the holder of `user_key`; for a renewal that is the key it had before.

        `verbs` are allowed in addition to those every worker has. `ctl_nonce` is the last token of the
        subject on which it is controlled. `ttl` in seconds.

        Raises:
            InvalidMessage: name, key, verb, nonce or life is not one.
        """
        self._check(worker, user_key, verbs, ctl_nonce, ttl)
        expires_at = float(int(self._clock() + ttl))
        tags = [f"verb:{verb}" for verb in dict.fromkeys((*ALWAYS_ALLOWED, *verbs))]
        jwt = signed(
            self._signer,
            subject=user_key,
            name=worker,
            nats={
                "type": "user",
                "issuer_account": self._account,
                "tags": [*tags, f"ctl:{ctl_nonce}"],
                "pub": {},
                "sub": {},
            },
            expires_at=expires_at,
        )
        return Credential(jwt, expires_at)

    def _check(
        self, worker: str, user_key: str, verbs: Sequence[str], ctl_nonce: str, ttl: float
    ) -> None:
        if not is_token(worker):
            raise InvalidMessage(f"no worker's name: {worker!r}", field="$.name")
        if not is_user_key(user_key):
            raise InvalidMessage("no public key of a user", field="$.user_key")
        if not is_token(ctl_nonce):
            raise InvalidMessage("not a subject token", field="$.ctl_nonce")
        if not 0 < ttl <= LONGEST:
            raise InvalidMessage(
                f"must be more than 0 and at most {LONGEST:.0f} seconds", field="$.ttl"
            )
        for index, verb in enumerate(verbs):
            if verb not in self._known:
                known = ", ".join(sorted(self._known - frozenset(ALWAYS_ALLOWED)))
                raise InvalidMessage(
                    f"unknown verb {verb!r}; known: {known}", field=f"$.allowed_commands[{index}]"
                )


def new_user() -> KeyPair:
    """A fresh key pair of a user."""
    return new_pair("user")
