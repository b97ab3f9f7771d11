"""Identity without a server: the walls, and what makes credentials of workers."""

import itertools

import pytest

from contracts.errors import ConfigurationInvalid, InvalidMessage
from contracts.ids import nonce
from contracts.topology import LEASE, REVOKED, SECRET, Topology
from services.kit.identity.accounts import OUTSIDE
from services.kit.identity.accounts import imports as imported
from services.kit.identity.claims import read
from services.kit.identity.keys import new_pair, pair_of
from services.kit.identity.revocations import SLACK, Revoked, still_needed
from services.kit.identity.walls import Outside, openings, permissions
from services.kit.identity.workers import LIFE, LONGEST, WorkerMinter, new_user


@pytest.fixture
def minter() -> WorkerMinter:
    return WorkerMinter(new_pair("account"), new_pair("account").public, {"git.token"})


def imports(topology: Topology, account: Outside) -> list[tuple[str, str]]:
    return [(entry["type"], entry["subject"]) for entry in imported(topology, account)]


# -- walls ----------------------------------------------------------------------------------------


def collide(one: str, other: str) -> bool:
    """Whether some subject matches both patterns."""
    for a, b in itertools.zip_longest(one.split("."), other.split(".")):
        if a is None or b is None:
            return False
        if ">" in (a, b):
            return True
        if a != b and "*" not in (a, b):
            return False
    return True


def covers(wide: str, narrow: str) -> bool:
    """Whether every subject of `narrow` is one of `wide`."""
    for a, b in itertools.zip_longest(wide.split("."), narrow.split(".")):
        if a == ">":
            return b is not None
        if a is None or b is None or b == ">" or (a != b and a != "*"):
            return False
    return True


def test_no_two_exports_of_services_overlap_since_that_would_lock_everybody_out() -> None:
    services = [opening.subject for opening in openings(Topology()) if opening.kind == "service"]

    assert [pair for pair in itertools.combinations(services, 2) if collide(*pair)] == []


@pytest.mark.parametrize("account", OUTSIDE)
def test_every_import_lies_within_one_export(account: Outside) -> None:
    exports = [(opening.kind, opening.subject) for opening in openings(Topology())]

    for kind, subject in imports(Topology(), account):
        matching = [e for k, e in exports if k == kind and covers(e, subject)]
        assert len(matching) == 1, subject


@pytest.mark.parametrize("bucket", [SECRET, LEASE, REVOKED])
@pytest.mark.parametrize("account", OUTSIDE)
def test_no_import_reaches_the_contents_of_a_private_bucket(account: Outside, bucket: str) -> None:
    wanted = [
        f"$KV.{bucket}.x",
        f"$JS.API.DIRECT.GET.KV_{bucket}",
        f"$JS.API.DIRECT.GET.KV_{bucket}.$KV.{bucket}.x",
        f"$JS.API.STREAM.MSG.GET.KV_{bucket}",
        f"$JS.API.STREAM.SNAPSHOT.KV_{bucket}",
        f"$JS.API.CONSUMER.CREATE.KV_{bucket}.name.$KV.{bucket}.>",
        f"$JS.API.CONSUMER.CREATE.KV_{bucket}",
        f"$JS.API.CONSUMER.DURABLE.CREATE.KV_{bucket}.name",
        f"$JS.API.CONSUMER.MSG.NEXT.KV_{bucket}.name",
        f"jetcrew.kv.{bucket}.x",
    ]
    for _, subject in imports(Topology(), account):
        if not subject.startswith("jetcrew.kv"):  # what is not republished does not appear there
            assert [w for w in wanted if covers(subject, w)] == [], subject
    assert not next(b for b in Topology().buckets if b.name == bucket).republished


@pytest.mark.parametrize("account", OUTSIDE)
def test_every_account_outside_asks_jetcrew_alone_about_streams(account: Outside) -> None:
    """Without this import the server adds one of its own, of everything."""
    assert ("service", "$JS.API.INFO") in imports(Topology(), account)


def test_readers_can_create_nothing_and_change_nothing() -> None:
    verbs = {
        subject.split(".")[2]
        for kind, subject in imports(Topology(), "READERS")
        if kind == "service" and subject.startswith("$JS.API.")
    }
    others = [
        subject
        for kind, subject in imports(Topology(), "READERS")
        if kind == "service" and not subject.startswith("$JS.API.")
    ]

    assert verbs == {"DIRECT", "INFO", "STREAM"}
    assert others == []
    assert ("service", "$JS.API.STREAM.INFO.*") in imports(Topology(), "READERS")


def test_everything_follows_the_prefix() -> None:
    topology = Topology("acme")

    assert not [o.subject for o in openings(topology) if "jetcrew" in o.subject]
    assert ("service", "acme.rep.>") in imports(topology, "WORKERS")
    for account in OUTSIDE:
        rights = permissions(topology, account)
        every = (*rights.publish, *rights.publish_not, *rights.subscribe)
        assert not [subject for subject in every if "jetcrew" in subject]


def test_a_worker_s_rights_all_carry_its_name() -> None:
    rights = permissions(Topology(), "WORKERS")

    assert rights.publish
    for subject in (*rights.publish, *rights.subscribe):
        assert "{{name()}}" in subject


# -- minter ---------------------------------------------------------------------------------------


def test_a_credential_names_the_worker_its_verbs_and_when_it_ends() -> None:
    signer, account, user = new_pair("account"), new_pair("account"), new_user()
    minter = WorkerMinter(signer, account.public, {"git.token"}, clock=lambda: 1_000_000.5)

    credential = minter.mint("ada", user.public, ["git.token"], "abc")

    claims = read(credential.jwt)
    assert (claims["name"], claims["sub"], claims["iss"]) == ("ada", user.public, signer.public)
    assert claims["exp"] == credential.expires_at == 1_000_900
    assert claims["nats"]["issuer_account"] == account.public
    assert sorted(claims["nats"]["tags"]) == [
        "ctl:abc", "verb:artifact.get", "verb:artifact.keep", "verb:artifact.put",
        "verb:credential", "verb:git.token", "verb:task.start",
    ]  # fmt: skip
    assert claims["nats"]["pub"] == claims["nats"]["sub"] == {}


def test_a_renewal_is_for_the_same_key(minter: WorkerMinter) -> None:
    user = new_user()

    both = [minter.mint("ada", user.public, [], "abc", ttl).jwt for ttl in (60, 120)]

    assert [read(jwt)["sub"] for jwt in both] == [user.public, user.public]
    assert both[0] != both[1]


@pytest.mark.parametrize("name", ["*", ">", "a.b", "", "A", "a" * 41, "ada\n", "{{name()}}", "ä"])
def test_a_name_that_would_widen_the_credential_is_refused(minter: WorkerMinter, name: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        minter.mint(name, new_user().public, [], nonce())
    assert caught.value.field == "$.name"


@pytest.mark.parametrize("verb", [">", "*", "git.*", "git.>", "", "git.token\n", "git.token.>"])
def test_a_verb_that_is_not_on_the_list_is_refused(minter: WorkerMinter, verb: str) -> None:
    with pytest.raises(InvalidMessage, match=r"known: git\.token") as caught:
        minter.mint("ada", new_user().public, ["git.token", verb], nonce())
    assert caught.value.field == "$.allowed_commands[1]"


@pytest.mark.parametrize("given", ["*", ">", "", "a.b", "abc\n"])
def test_a_nonce_that_would_match_others_is_refused(minter: WorkerMinter, given: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        minter.mint("ada", new_user().public, [], given)
    assert caught.value.field == "$.ctl_nonce"


@pytest.mark.parametrize("ttl", [0, -1, LONGEST + 1, float("nan"), float("inf")])
def test_a_life_out_of_bounds_is_refused(minter: WorkerMinter, ttl: float) -> None:
    with pytest.raises(InvalidMessage) as caught:
        minter.mint("ada", new_user().public, [], nonce(), ttl)
    assert caught.value.field == "$.ttl"


def test_only_a_user_s_key_gets_a_credential(minter: WorkerMinter) -> None:
    for key in (new_pair("account").public, "", "U", new_user().public + "\n", new_user().seed):
        with pytest.raises(InvalidMessage):
            minter.mint("ada", key, [], nonce())


def test_a_list_of_verbs_with_a_wildcard_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationInvalid, match=r"git\.\*"):
        WorkerMinter(new_pair("account"), "A", {"git.*"})


# -- revocations ----------------------------------------------------------------------------------


def test_a_revocation_is_kept_until_what_it_revokes_has_expired() -> None:
    now = 1_000_000.0
    old, recent = int(now - LIFE - SLACK), int(now - LIFE)
    revoked = {
        "UOLD": Revoked(at=old),
        "URECENT": Revoked(at=recent),
        "ULONG": Revoked(at=old, until=int(now)),
        "USHORT": Revoked(at=recent, until=int(now - SLACK)),
    }

    assert still_needed(revoked, now) == {"URECENT": recent, "ULONG": old}


def test_a_seed_never_shows_in_a_representation() -> None:
    pair = new_user()

    assert pair.seed not in repr(pair)
    assert pair_of(pair.seed) == pair
