"""The rules of the door to the engine: what is sent, whatever was asked."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import NotAllowed
from contracts.worker import CreateWorker, Limits, Runtime
from services.worker_manager.engine_door import bodies, creation
from services.worker_manager.engine_door.images import Allowed
from services.worker_manager.engine_door.owner import Belongings, Child, Owner
from services.worker_manager.engine_door.policy import check_access
from services.worker_manager.engine_door.refusal import Refusal
from services.worker_manager.engine_door.routes import found
from services.worker_manager.engine_door.shares import Share, check
from services.worker_manager.engine_door.shown import filters, pull
from services.worker_manager.engine_door.target import parsed
from services.worker_manager.runtimes.profile import Names

HERS = "a" * 64
NET = "b" * 64
WORKSPACE = "jetcrew-crew.warm_1.workspace"
DEFAULT_NET = "c" * 64
ADA = Owner(
    names=Names("crew", "here"),
    worker="ada",
    limits=Limits(memory_mb=1024, cpus=2, pids=256),
    egress=True,
    images=Allowed(["debian:*", "python"]),
)
OWN = Belongings(
    containers=(Child(id=HERS, name="hers", state="running", labels={}),),
    networks={"net": NET},
    volumes=frozenset({"data"}),
)
AROUND = creation.Around(
    owner=ADA, own=OWN, cpus_there=8, version=45, workspace=WORKSPACE, default_network=DEFAULT_NET
)


def sent(body: Any) -> dict[str, Any]:
    return creation.container(body, AROUND).body


def host(**fields: Any) -> dict[str, Any]:
    made: dict[str, Any] = sent({"Image": "debian:12", "HostConfig": fields})["HostConfig"]
    return made


# -- whatever is asked ------------------------------------------------------------------------------

KNOWN = sorted({*creation.CONFIG, *creation.HOST, *creation.ENDPOINT})
UNKNOWN = [
    "Privileged", "privileged", "PRIVILEGED", "CapAdd", "capAdd", "Devices", "DeviceCgroupRules",
    "DeviceRequests", "UTSMode", "UsernsMode", "CgroupParent", "Sysctls", "Runtime", "Isolation",
    "MaskedPaths", "ReadonlyPaths", "OomKillDisable", "OomScoreAdj", "PortBindings", "PublishAllPorts",
    "Links", "Dns", "StorageOpt", "Annotations", "Ulimits", "BlkioWeight", "hostconfig", "binds", "MacAddress",
    "NetworkDisabled", "OnBuild", "DriverConfig", "DriverOpts", "IPAMConfig", "Source", "Type",
]  # fmt: skip
WORDS = [
    "", "host", "private", "none", "default", "bridge", "container:hers", "container:his", f"container:{HERS}",
    "net", "data:/d", "data:/d:ro", "/:/h", "/etc:/h", "/workspace:/w", "/workspace/../etc:/h", "~:/h",
    "jetcrew-crew.bob.workspace:/h", "ALL", "SYS_ADMIN", "seccomp=unconfined", "no-new-privileges", "label=disable",
    "on-failure", "json-file", "syslog", "local", "bind", "volume", "tmpfs", "/etc", "data", "../..", "suid",
    "jetcrew.kind", "worker", "rshared",
]  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**63) | st.sampled_from(WORDS) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from([*KNOWN, *UNKNOWN, *WORDS]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
objects = st.dictionaries(st.sampled_from([*KNOWN, *UNKNOWN]), values, max_size=6)
plausible = st.fixed_dictionaries(
    {},
    optional={
        "NetworkMode": st.sampled_from(WORDS),
        "PidMode": st.sampled_from(WORDS),
        "IpcMode": st.sampled_from(WORDS),
        "CgroupnsMode": st.sampled_from(WORDS),
        "Binds": st.lists(st.sampled_from(WORDS), max_size=3),
        "VolumesFrom": st.lists(st.sampled_from(["hers", "hers:ro", "his", "hers:x"]), max_size=2),
        "Mounts": st.lists(
            st.fixed_dictionaries(
                {"Type": st.sampled_from(WORDS), "Target": st.sampled_from(["/t", "/", "t", "/t/../u"])},
                optional={
                    "Source": st.sampled_from(WORDS),
                    "VolumeOptions": objects,
                    "BindOptions": objects,
                },
            ),
            max_size=2,
        ),
        "Tmpfs": st.dictionaries(st.sampled_from(["/t", "t", "/"]), st.sampled_from(WORDS), max_size=1),
        "CapDrop": st.lists(st.sampled_from(WORDS), max_size=2),
        "SecurityOpt": st.lists(st.sampled_from(WORDS), max_size=2),
        "Memory": st.integers(-1, 2**41),
        "NanoCpus": st.integers(-1, 10**10),
        "PidsLimit": st.integers(-1, 1000),
        "LogConfig": objects,
        "RestartPolicy": st.fixed_dictionaries({"Name": st.sampled_from([*WORDS, "always"])}),
    },
)  # fmt: skip
modest = st.fixed_dictionaries(
    {},
    optional={
        "NetworkMode": st.sampled_from(["", "net", NET[:9], "none", "default", "container:hers"]),
        "PidMode": st.sampled_from(["", "container:hers"]),
        "IpcMode": st.sampled_from(["private", "none", f"container:{HERS[:12]}"]),
        "Binds": st.lists(st.sampled_from(["data:/d", "new:/n:ro", "/workspace:/w", "/workspace/a:/a"]), unique=True),
        "VolumesFrom": st.just(["hers:ro"]),
        "Mounts": st.just([{"Type": "tmpfs", "Target": "/t"}, {"Type": "volume", "Source": "data", "Target": "/u"}]),
        "CapDrop": st.just(["ALL"]),
        "Memory": st.integers(0, 2**30),
        "NanoCpus": st.integers(0, 2 * 10**9),
        "PidsLimit": st.integers(-1, 256),
        "ReadonlyRootfs": st.booleans(),
        "RestartPolicy": st.just({"Name": "always"}),
    },
)  # fmt: skip
one_more = st.dictionaries(st.sampled_from([*KNOWN, *UNKNOWN]), values, max_size=1)


def both(*parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.tuples(*parts).map(lambda given: {k: v for part in given for k, v in part.items()})


create_bodies = values | st.fixed_dictionaries(
    {
        "HostConfig": st.one_of(objects, plausible, modest, both(modest, one_more), both(plausible, one_more)),
        "NetworkingConfig": st.one_of(
            st.just({}),
            st.dictionaries(st.sampled_from(["net", *WORDS]), st.none() | objects, max_size=2).map(
                lambda endpoints: {"EndpointsConfig": endpoints}
            ),
        ),
    },
    optional={
        "Labels": st.dictionaries(st.sampled_from([*WORDS, "jetcrew.worker"]), st.text(max_size=3), max_size=1),
        "Volumes": st.dictionaries(st.sampled_from(["/v", "/d", "v"]), st.just({}), max_size=2),
    },
)  # fmt: skip
HOST_SENT = {
    "AutoRemove", "ReadonlyRootfs", "Init", "ExtraHosts", "GroupAdd", "MemoryReservation", "ShmSize", "CgroupnsMode",
    "ConsoleSize", "RestartPolicy", "Tmpfs", "NetworkMode", "IpcMode", "PidMode", "VolumesFrom", "Mounts", "Privileged",
    "CapDrop", "SecurityOpt", "Memory", "MemorySwap", "NanoCpus", "PidsLimit", "Ulimits", "LogConfig",
}  # fmt: skip


def assert_harmless(body: dict[str, Any]) -> None:
    made = body["HostConfig"]
    assert set(body) <= set(creation.CONFIG)
    assert set(made) <= HOST_SENT
    assert made["Privileged"] is False
    assert made["SecurityOpt"] == ["no-new-privileges"]
    assert set(creation.DROPPED) <= set(made["CapDrop"])
    assert made["NetworkMode"] in {"none", NET, DEFAULT_NET, f"container:{HERS}"}
    assert made["PidMode"] in {"", f"container:{HERS}"}
    assert made["IpcMode"] in {"", "none", "private", "shareable", f"container:{HERS}"}
    assert made.get("CgroupnsMode", "private") == "private"
    assert {each.partition(":")[0] for each in made["VolumesFrom"]} <= {HERS}
    for mount in made["Mounts"]:
        assert mount["Type"] in {"volume", "tmpfs"}
        assert set(mount) <= {
            "Type",
            "Source",
            "Target",
            "ReadOnly",
            "VolumeOptions",
            "TmpfsOptions",
        }
        source = mount.get("Source", "")
        assert "/" not in source
        assert source == WORKSPACE or not source.startswith("jetcrew")
        options = mount.get("VolumeOptions", {})
        assert set(options) <= {"NoCopy", "Labels", "Subpath"}
        assert ".." not in options.get("Subpath", "").split("/")
    whole = Share.whole(ADA.limits)
    assert 0 < made["Memory"] == made["MemorySwap"] <= whole.memory
    assert 0 < made["NanoCpus"] <= whole.nano_cpus
    assert 0 < made["PidsLimit"] <= whole.pids
    assert made["LogConfig"]["Type"] == "json-file"
    assert ADA.labels.items() <= body["Labels"].items()
    assert set(body["NetworkingConfig"]["EndpointsConfig"]) <= {
        NET,
        DEFAULT_NET,
        "none",
        f"container:{HERS}",
    }
    for endpoint in body["NetworkingConfig"]["EndpointsConfig"].values():
        assert set(endpoint) <= {"Aliases", "NetworkID"}


@settings(max_examples=250, deadline=None)
@given(create_bodies)
def test_nothing_outside_the_lists_passes_whatever_is_asked(body: Any) -> None:
    try:
        made = creation.container(body, AROUND)
    except Refusal:
        return
    assert_harmless(made.body)
    assert all(not name.startswith("jetcrew") and "/" not in name for name in made.volumes)


@settings(max_examples=300, deadline=None)
@given(objects | values)
def test_nothing_outside_the_lists_passes_in_the_other_bodies(body: Any) -> None:
    rules: dict[Callable[[], dict[str, Any]], set[str]] = {
        lambda: bodies.volume(body, ADA): {"Name", "Driver", "Labels"},
        lambda: bodies.network(body, ADA): {
            "Name", "Driver", "CheckDuplicate", "Internal", "Labels", "Options",
        },
        lambda: bodies.command(body): {
            "AttachStdin", "AttachStdout", "AttachStderr", "Tty", "User", "WorkingDir", "DetachKeys", "Detach", "Env",
            "Cmd", "ConsoleSize",
        },
        lambda: bodies.command_start(body): {"Detach", "Tty", "ConsoleSize"},
    }  # fmt: skip
    for rule, known in rules.items():
        try:
            assert set(rule()) <= known
        except Refusal:
            continue


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="/.%aA01v:@-_ ?=&#;\\\n\0é", max_size=40).map("/{}".format))
def test_a_path_is_refused_or_sent_as_it_was_checked(text: str) -> None:
    try:
        target = parsed(text.encode())
    except Refusal:
        return
    assert str(target).partition("?")[0] == text.partition("?")[0]
    segments = target.path.split("/")[1:]
    assert all(segment not in {"", ".", ".."} for segment in segments)
    assert "%" not in target.path


# -- what a client sends that means no harm -----------------------------------------------------------


def test_what_the_command_line_sends_of_things_unsaid_is_left_out() -> None:
    made = host(
        Privileged=False, CapAdd=None, Devices=[], PidMode="", UTSMode="", Sysctls=None, MemorySwappiness=-1,
        OomScoreAdj=0, PortBindings={}, Links=None, MaskedPaths=None, Isolation="", PidsLimit=0, Memory=0,
        LogConfig={"Type": "", "Config": {}}, RestartPolicy={"Name": "no", "MaximumRetryCount": 0},
        ConsoleSize=[24, 80], NetworkMode="bridge", BlkioWeightDevice=[], Dns=[], ContainerIDFile="", Binds=None,
    )  # fmt: skip

    assert set(made) <= HOST_SENT
    assert made["NetworkMode"] == DEFAULT_NET
    assert (made["Memory"], made["NanoCpus"], made["PidsLimit"]) == (256 << 20, 500_000_000, 64)


def test_a_path_of_the_workspace_is_mounted_from_the_workspaces_volume() -> None:
    whole, part = host(Binds=["/workspace:/app:ro", "/workspace/a/b/:/b"])["Mounts"]

    assert (whole["Type"], whole["Source"], whole["ReadOnly"]) == ("volume", WORKSPACE, True)
    assert part["VolumeOptions"] == {"Subpath": "a/b"}
    with pytest.raises(Refusal, match="mount all of /workspace"):
        creation.container(
            {"HostConfig": {"Binds": ["/workspace/a:/b"]}},
            creation.Around(owner=ADA, own=OWN, cpus_there=8, workspace=WORKSPACE, version=41),
        )


def test_volumes_that_an_image_wants_are_made_as_the_workers_own() -> None:
    around = creation.Around(
        owner=ADA, own=OWN, cpus_there=8, image_volumes=["/data", "/var/lib", "/tmpfs"]
    )
    body = {"HostConfig": {"Binds": ["new:/data"], "Tmpfs": {"/tmpfs": ""}}}
    made = creation.container(body, around)

    assert made.volumes == {"new"}
    named, anonymous = made.body["HostConfig"]["Mounts"]
    assert named["Source"] == "new"
    assert (anonymous["Target"], "Source" in anonymous) == ("/var/lib", False)
    assert anonymous["VolumeOptions"]["Labels"] == ADA.labels


def test_a_network_of_a_worker_without_one_leads_nowhere() -> None:
    alone = Owner(names=ADA.names, worker="eve", limits=ADA.limits, egress=False, images=ADA.images)

    made = bodies.network({"Name": "net", "Internal": False}, alone)

    assert made["Internal"] is True
    assert made["Options"] == {"com.docker.network.bridge.inhibit_ipv4": "true"}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"HostConfig": {"Privileged": True}}, "HostConfig.Privileged"),
        ({"HostConfig": {"NewField": {"x": 1}}}, "HostConfig.NewField is not among"),
        ({"Labels": {"jetcrew.worker": "bob"}}, "labels that begin with jetcrew."),
        ({"HostConfig": {"Memory": 2 << 30}}, "2048 MiB of memory asked, 1024 left"),
        ({"HostConfig": {"NetworkMode": "his"}}, "No such network: his"),
        ({"HostConfig": {"Binds": ["/etc:/e"]}}, "no path of the host"),
        (
            {"HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "1"}]}}},
            "docker network connect",
        ),
        ([], "an object is expected"),
    ],
)
def test_a_refusal_says_which_field_and_why(body: Any, says: str) -> None:
    with pytest.raises(Refusal) as refused:
        sent(body)
    assert says in refused.value.message


# -- limits, images, parameters -----------------------------------------------------------------------


def test_what_may_start_by_itself_counts_as_if_it_ran() -> None:
    share = Share(memory=512 << 20, nano_cpus=10**9, pids=100)
    stopped = Child(id="1", name="a", state="exited", labels=share.labels())
    restarts = Child(
        id="2", name="b", state="exited", labels={**share.labels(), "jetcrew.restarts": "yes"}
    )
    own = Belongings(containers=(stopped, restarts))

    assert list(own.shares()) == [share]
    check(share, own.shares(), ADA.limits)
    with pytest.raises(Refusal, match="left of this worker's 1024; set --memory"):
        check(share, [share, share], ADA.limits)


@pytest.mark.parametrize(
    ("pattern", "allowed", "refused"),
    [
        ("python", ["python", "python:3.12", "docker.io/library/python:3", f"python@sha256:{'0' * 64}"],
         ["python2", "evil.example/python", "python/x", "python@sha256:0"]),
        ("python:3.*", ["python:3.12", "library/python:3.1"], ["python", "python:2", f"python@sha256:{'0' * 64}"]),
        ("python*", ["python3:1", "python:1"], ["python.evil.example/x:1", "pythonx/y"]),
        ("ghcr.io/acme/*", ["ghcr.io/acme/x:1", "ghcr.io/acme/x"], ["ghcr.io/acme/x/y", "acme/x", "ghcr.io/acmee/x"]),
        ("host:5000/x", ["host:5000/x:2", f"host:5000/x:1@sha256:{'0' * 64}"], ["host:5001/x", "host"]),
        ("**", ["a/b/c:1", "x"], []),
    ],
)  # fmt: skip
def test_an_image_is_allowed_by_its_whole_name(
    pattern: str, allowed: list[str], refused: list[str]
) -> None:
    images = Allowed([pattern])

    assert images.among([*allowed, *refused]) == allowed


def test_no_image_is_allowed_unless_one_is_named() -> None:
    assert Allowed([]).among(["debian:12", "x"]) == []


def test_a_pull_is_of_one_tag() -> None:
    assert pull({"fromImage": "python"}, ADA.images) == {"fromImage": "python", "tag": "latest"}
    for query in ({"fromImage": "debian", "tag": "1/../x"}, {"fromImage": "-x"}, {}):
        with pytest.raises(Refusal):
            pull(query, ADA.images)


def test_a_list_is_of_the_workers_own_whatever_its_filters_say() -> None:
    forged = json.dumps({"label": {"jetcrew.worker=bob": True}, "status": ["running"]})
    made = json.loads(ADA.filters(filters("containers", forged)))

    assert made["status"] == ["running"]
    assert {f"{k}={v}" for k, v in ADA.labels.items()} < set(made["label"])
    for other in ('{"before":["x"]}', "[]", "{", '{"label":[1]}', '{"label":{"a":{}},"x":1}'):
        with pytest.raises(Refusal):
            filters("containers", other)
    with pytest.raises(Refusal, match="its containers"):
        filters("events", '{"type":["volume"]}')


def test_a_parameter_that_a_route_does_not_know_is_refused() -> None:
    target = parsed(b"/v1.45/containers/x/start?checkpoint=1")

    with pytest.raises(Refusal, match="checkpoint"):
        found("POST", target)
    with pytest.raises(Refusal, match="not built here"):
        found("POST", parsed(b"/build"))


@pytest.mark.parametrize(
    ("runtime", "on"), [("process", True), ("docker", False), ("process", False)]
)
def test_access_is_refused_where_there_is_no_door(runtime: Runtime, on: bool) -> None:
    spec = CreateWorker(name="ada", agent="shell", capabilities=["git", "docker-cli"])

    with pytest.raises(NotAllowed) as refused:
        check_access(spec, runtime, on=on)
    assert refused.value.field == "$.capabilities[1]"
    check_access(spec, "docker", on=True)
    check_access(CreateWorker(name="ada", agent="shell"), "process", on=False)
