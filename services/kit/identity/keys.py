"""Ed25519 key pairs in the notation of NATS: seeds `SO… SA… SU…`, public keys `O… A… U…`."""

import os
import re
from dataclasses import dataclass, field
from typing import Any, Literal

import nkeys

from contracts.errors import ConfigurationInvalid

Kind = Literal["operator", "account", "user"]

_PREFIX = {
    "operator": nkeys.PREFIX_BYTE_OPERATOR,
    "account": nkeys.PREFIX_BYTE_ACCOUNT,
    "user": nkeys.PREFIX_BYTE_USER,
}
_USER = re.compile(r"U[A-Z2-7]{55}")


@dataclass(frozen=True)
class KeyPair:
    """A private key; its seed never shows in a log or traceback."""

    public: str
    seed: str = field(repr=False)
    _pair: Any = field(repr=False, compare=False)

    def sign(self, data: bytes) -> bytes:
        """The signature of `data`."""
        signature: bytes = self._pair.sign(data)
        return signature


def new_pair(kind: Kind) -> KeyPair:
    """A fresh key pair."""
    seed: bytes = nkeys.encode_seed(os.urandom(32), _PREFIX[kind])
    return pair_of(seed.decode())


def pair_of(seed: str) -> KeyPair:
    """The key pair of a seed.

    Raises:
        ConfigurationInvalid: it is no seed.
    """
    try:
        pair = nkeys.from_seed(bytearray(seed.strip().encode()))
        public: bytes = pair.public_key
    except (nkeys.NkeysError, ValueError) as error:
        raise ConfigurationInvalid("a key file does not hold a NATS seed") from error
    return KeyPair(public.decode(), seed.strip(), pair)


def is_user_key(text: str) -> bool:
    """Whether `text` has the form of a user's public key."""
    return _USER.fullmatch(text) is not None
