"""The files of an identity: private, made once, kept."""

import stat
from pathlib import Path

import pytest

from contracts.errors import ConfigurationInvalid, InvalidMessage
from contracts.ids import nonce
from contracts.topology import Topology
from services.kit.identity.claims import jwt_of_creds, read
from services.kit.identity.keys import new_pair
from services.kit.identity.store import ROLES, create_identity, load_identity
from services.kit.identity.workers import new_user
from services.kit.state import StateDirectory


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    return StateDirectory.at(tmp_path / "state")


def contents(state: StateDirectory) -> dict[str, bytes]:
    return {
        str(path.relative_to(state.root)): path.read_bytes()
        for path in state.identity.rglob("*")
        if path.is_file()
    }


def test_making_it_again_changes_nothing(state: StateDirectory) -> None:
    first = create_identity(state, Topology())
    before = contents(state)
    second = create_identity(state, Topology())

    assert contents(state) == before
    assert (first.crew, first.keys) == (second.crew, second.keys)
    assert load_identity(state, Topology()).crew == first.crew


def test_two_installations_have_nothing_in_common(tmp_path: Path) -> None:
    one, other = (
        create_identity(StateDirectory.at(tmp_path / name), Topology()) for name in ("one", "other")
    )

    assert one.crew != other.crew
    assert not set(one.keys.values()) & set(other.keys.values())


def test_nobody_but_the_owner_can_read_any_of_it(state: StateDirectory) -> None:
    identity = create_identity(state, Topology())
    identity.operator("alice")

    for path in (state.identity, *state.identity.rglob("*")):
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_a_missing_file_is_made_again_and_the_rest_stays(state: StateDirectory) -> None:
    create_identity(state, Topology())
    before = contents(state)
    state.creds("manager").unlink()
    (state.identity / "jwt" / "WORKERS.jwt").unlink()
    create_identity(state, Topology())
    after = contents(state)

    changed = {name for name in before if before[name] != after[name]}
    assert after.keys() == before.keys()
    assert changed <= {"identity/creds/manager.creds", "identity/jwt/WORKERS.jwt"}


def test_another_prefix_changes_the_accounts_and_keeps_keys_and_credentials(
    state: StateDirectory,
) -> None:
    create_identity(state, Topology())
    before = contents(state)
    create_identity(state, Topology("acme"))
    after = contents(state)

    changed = {name for name in before if before[name] != after[name]}
    assert changed == {
        f"identity/jwt/{account}.jwt" for account in ("JETCREW", "OPERATORS", "READERS", "WORKERS")
    }


def test_every_role_has_credentials_of_its_account(state: StateDirectory) -> None:
    identity = create_identity(state, Topology())

    for role, account in ROLES.items():
        claims = read(jwt_of_creds(state.creds(role).read_text()))
        issuer = claims["nats"].get("issuer_account", claims["iss"])
        assert (role, issuer) == (role, identity.public(account))


def test_a_further_operator_keeps_the_credentials_it_got_first(state: StateDirectory) -> None:
    identity = create_identity(state, Topology())

    first = identity.operator("alice").read_text()

    assert identity.operator("alice").read_text() == first
    assert identity.operator("bob").read_text() != first
    assert identity.operator("operator") == state.creds("operator")
    with pytest.raises(InvalidMessage):
        identity.operator("*")
    with pytest.raises(InvalidMessage):
        identity.operator("../manager")


def test_without_an_identity_the_error_says_how_to_get_one(state: StateDirectory) -> None:
    with pytest.raises(ConfigurationInvalid, match="jetcrew init"):
        load_identity(state, Topology())


def test_a_damaged_identity_is_an_error_and_is_not_replaced(state: StateDirectory) -> None:
    create_identity(state, Topology())
    (state.identity / "crew.json").write_text("{")
    before = contents(state)

    with pytest.raises(ConfigurationInvalid, match="damaged"):
        create_identity(state, Topology())
    assert contents(state) == before


def test_a_key_of_somebody_else_is_noticed(state: StateDirectory) -> None:
    identity = create_identity(state, Topology())
    (state.identity / "keys" / "WORKERS-users.seed").write_text(new_pair("account").seed)

    with pytest.raises(ConfigurationInvalid, match="not the key"):
        identity.minter({"git.token"})


def test_a_host_may_lack_the_keys_it_does_not_need(state: StateDirectory) -> None:
    create_identity(state, Topology())
    for name in ("operator", "operator-signing", "JETCREW", "OPERATORS-users"):
        (state.identity / "keys" / f"{name}.seed").unlink()
    identity = load_identity(state, Topology())

    assert identity.minter({"git.token"}).mint("ada", new_user().public, [], nonce()).jwt
    with pytest.raises(ConfigurationInvalid, match="operator-signing"):
        identity.workers_account_jwt({})
