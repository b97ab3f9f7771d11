"""The credentials file: when it ends, and another JWT in it."""

import base64
import json
from pathlib import Path

import pytest

from wrapper.boot import credential_parts
from wrapper.credential import Life, life_of, with_jwt
from wrapper.memory import oom_kills

SEED = "SUAEXAMPLEOFASEEDTHATISFIFTYEIGHTCHARACTERSLONGASTHEYALLARE"


def jwt(**claims: object) -> str:
    middle = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"eyJ0eXAiOiJKV1QifQ.{middle}.c2ln"


def creds(token: str) -> str:
    return (
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{SEED}\n------END USER NKEY SEED------\n"
    )


def test_a_credential_is_renewed_when_two_thirds_of_its_life_are_over() -> None:
    life = life_of(creds(jwt(iat=1000, exp=1900)))

    assert life == Life(1000, 1900)
    assert life.renew_at == 1600


@pytest.mark.parametrize("token", [jwt(iat=1), jwt(iat=1, exp=0), "no.jwt", "a.b.c", jwt(exp="x")])
def test_what_does_not_expire_or_is_no_jwt_is_never_renewed(token: str) -> None:
    assert life_of(creds(token)) is None
    assert life_of("") is None


def test_a_new_jwt_takes_the_old_ones_place_and_the_seed_stays() -> None:
    old, new = jwt(iat=1, exp=2), jwt(iat=3, exp=4)

    assert with_jwt(creds(old), new) == creds(new)


def test_jwt_and_seed_are_what_must_not_be_published() -> None:
    token = jwt(iat=1, exp=2)

    assert credential_parts(creds(token)) == [token, SEED]


def test_the_kernels_count_is_read_in_both_of_its_spellings(tmp_path: Path) -> None:
    new, old = tmp_path / "memory.events", tmp_path / "memory.oom_control"
    old.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")

    before = oom_kills((new, old))
    new.write_text("low 0\noom 1\noom_kill 2\noom_group_kill 0\n")

    assert (before, oom_kills((new, old)), oom_kills(())) == (3, 2, 0)
