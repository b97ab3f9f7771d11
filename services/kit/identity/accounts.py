"""Account JWTs: the walls of `walls.py` in the notation of NATS."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from contracts.topology import Topology
from services.kit.identity.claims import Claims, signed
from services.kit.identity.keys import KeyPair
from services.kit.identity.walls import Opening, Outside, openings, permissions

Account = Literal["SYS", "JETCREW", "OPERATORS", "READERS", "WORKERS"]
ACCOUNTS: tuple[Account, ...] = get_args(Account)
OUTSIDE: tuple[Outside, ...] = get_args(Outside)

_UNLIMITED: Claims = {
    "subs": -1,
    "data": -1,
    "payload": -1,
    "imports": -1,
    "exports": -1,
    "wildcards": True,
    "conn": -1,
    "leaf": -1,
}
_STORAGE: Claims = {
    "mem_storage": -1,
    "disk_storage": -1,
    "streams": -1,
    "consumer": -1,
    "max_ack_pending": -1,
}


@dataclass(frozen=True)
class Accounts:
    """Makes account JWTs of a topology; knows public keys only."""

    topology: Topology
    public: Mapping[str, str]
    """Public keys of the accounts by name, and of the signing keys of those outside as `NAME-users`."""

    def claims(self, account: Account, revocations: Mapping[str, int] | None = None) -> Claims:
        """What the operator says of an account.

        `revocations` maps public keys of users to Unix times in seconds: what was issued to them until
        then is void. They are all there is: an entry that was there before and is missing now is lifted.
        """
        if account == "SYS":
            return _account()
        if account == "JETCREW":
            return _account(
                limits=_UNLIMITED | _STORAGE,
                exports=[_export(opening) for opening in openings(self.topology)],
            )
        return _account(
            imports=[
                {**entry, "account": self.public["JETCREW"]}
                for entry in imports(self.topology, account)
            ],
            signing_keys=[self._scope(account)],
            revocations=dict(revocations or {}),
        )

    def jwt(
        self,
        account: Account,
        operator: KeyPair,
        revocations: Mapping[str, int] | None = None,
        *,
        issued_at: float | None = None,
    ) -> str:
        """The same as a JWT of the operator's, issued now unless said otherwise (Unix time)."""
        return signed(
            operator,
            subject=self.public[account],
            name=account,
            nats=self.claims(account, revocations),
            issued_at=issued_at,
        )

    def _scope(self, account: Outside) -> Claims:
        """A signing key that can make users with exactly these rights and no others."""
        rights = permissions(self.topology, account)
        publish: Claims = {}
        if rights.publish:
            publish["allow"] = list(rights.publish)
        if rights.publish_not:
            publish["deny"] = list(rights.publish_not)
        return {
            "kind": "user_scope",
            "key": self.public[f"{account}-users"],
            "role": account.lower(),
            "template": {
                "subs": -1,
                "data": -1,
                "payload": -1,
                "pub": publish,
                "sub": {"allow": list(rights.subscribe)},
            },
        }


def imports(topology: Topology, account: Outside) -> list[Claims]:
    """Everything an account imports from JETCREW."""
    return [
        {"name": subject, "subject": subject, "type": opening.kind}
        | ({"local_subject": opening.renamed} if opening.renamed else {})
        for opening in openings(topology)
        if (subject := opening.seen_by(account)) is not None
    ]


def _account(**parts: object) -> Claims:
    return {
        "type": "account",
        "limits": _UNLIMITED,
        "default_permissions": {"pub": {}, "sub": {}},
        **{name: part for name, part in parts.items() if part},
    }


def _export(opening: Opening) -> Claims:
    export: Claims = {
        "name": opening.subject,
        "subject": opening.subject,
        "type": opening.kind,
    }
    if opening.kind == "service":
        export["response_type"] = "Stream" if opening.many else "Singleton"
    return export
