"""JWTs as NATS wants them: signed with an nkey, which general JWT libraries cannot do."""

import base64
import hashlib
import itertools
import json
import time
from typing import Any

from services.kit.identity.keys import KeyPair

Claims = dict[str, Any]
"""What stands under `nats` in a JWT."""

_HEADER = b'{"typ":"JWT","alg":"ed25519-nkey"}'


def signed(
    signer: KeyPair,
    *,
    subject: str,
    name: str,
    nats: Claims,
    issued_at: float | None = None,
    expires_at: float | None = None,
) -> str:
    """The JWT in which `signer` says `nats` of the holder of the public key `subject`.

    Times are Unix times in seconds. It is issued now unless said otherwise, and never expires without
    `expires_at`.
    """
    claims: Claims = {
        "iat": int(time.time() if issued_at is None else issued_at),
        "iss": signer.public,
        "name": name,
        "sub": subject,
        "nats": {"version": 2, **nats},
    }
    if expires_at is not None:
        claims["exp"] = int(expires_at)
    digest = hashlib.sha256(json.dumps(claims, sort_keys=True).encode()).digest()
    claims["jti"] = base64.b32encode(digest).rstrip(b"=").decode()
    body = f"{_url64(_HEADER)}.{_url64(json.dumps(claims).encode())}"
    return f"{body}.{_url64(signer.sign(body.encode()))}"


def read(jwt: str) -> Claims:
    """All claims of a JWT, its signature unchecked.

    Raises:
        ValueError: it is none.
    """
    _, body, _ = jwt.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    if not isinstance(claims, dict):
        raise ValueError("the claims are no object")  # noqa: TRY004  # a JWT of another form, not a wrong type
    return claims


def creds_text(jwt: str, seed: str) -> str:
    """A credentials file, as every NATS client reads it."""
    return (
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        "************************* IMPORTANT *************************\n"
        "The seed below is a private key: whoever has it can connect.\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n\n"
        "*************************************************************\n"
    )


def jwt_of_creds(text: str) -> str:
    """The JWT in a credentials file.

    Raises:
        ValueError: there is none.
    """
    lines = text.splitlines()
    for before, line in itertools.pairwise(lines):
        if "BEGIN NATS USER JWT" in before:
            return line.strip()
    raise ValueError("no user JWT in this file")


def _url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
