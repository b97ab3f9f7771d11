"""What people and the HTTP service can do with their credentials, and what they cannot."""

import json
from collections.abc import AsyncIterator

import pytest
from nats.errors import NoRespondersError
from nats.js.api import ConsumerConfig, DeliverPolicy

from contracts.bus import Bus, Message
from contracts.ids import CommandId, TaskId, WorkerId
from contracts.topology import Topology
from tests.support.raw_nats import control_plane, everything, raw_creds, raw_role, raw_worker
from tests.support.servers import Server

ADA = WorkerId("ada")
S = Topology().subjects
RES = S.result(CommandId("s1"))
EVENT = S.events_of_worker(ADA).replace(">", "ready")


@pytest.fixture
async def bus(server: Server) -> AsyncIterator[Bus]:
    """The control plane, with something in every place that is worth reading or overwriting."""
    async with control_plane(server) as bus:
        for subject, body in (
            ("$KV.jc_worker.ada", b'{"state":"ready"}'),
            ("$KV.jc_secret.key", b'{"value":"s3cret"}'),
            ("$KV.jc_lease.manager", b"node-1"),
            ("$KV.jc_revoked.UABC", b"1"),
            (S.task("held"), b'{"state":"forged"}'),
            (RES, b'{"state":"done"}'),
            (EVENT, b'{"type":"worker.ready"}'),
            (S.dead_letter("JC_CMD", "mgr"), b"{}"),
        ):
            await bus.publish(subject, body)
        yield bus


# -- operators ------------------------------------------------------------------------------------


async def test_an_operator_uses_all_doors(server: Server, bus: Bus) -> None:
    async def answer(message: Message) -> bytes:
        return message.subject.encode()

    async with (
        bus.serve(S.door("worker", "create"), answer),
        bus.serve(S.door("secret", "put"), answer),
        raw_role(server, "operator") as operator,
    ):
        js = operator.nc.jetstream()
        command = await js.publish(S.command("worker", "create"), b"{}")
        prompt = await js.publish(S.task(ADA), b"{}")
        pool = await js.publish(S.task("pool.p"), b"{}")
        created = await operator.nc.request(S.door("worker", "create"), b"{}", timeout=5)
        put = await operator.nc.request(S.door("secret", "put"), b"{}", timeout=5)

    assert [ack.stream for ack in (command, prompt, pool)] == ["JC_CMD", "JC_TASK", "JC_TASK"]
    assert (created.data, put.data) == (b"jetcrew.api.worker.create", b"jetcrew.api.secret.put")
    assert operator.refused == []


@pytest.mark.parametrize("role", ["operator", "api"])
async def test_events_output_results_and_changes_are_seen_as_they_happen(
    server: Server, bus: Bus, role: str
) -> None:
    async with raw_role(server, role) as watcher, raw_worker(server, ADA) as ada:
        live = [
            await watcher.nc.subscribe(subject)
            for subject in ("jetcrew.evt.>", "jetcrew.out.>", "jetcrew.res.*", "jetcrew.kv.>")
        ]
        await watcher.settled()
        assert watcher.refused == []
        await bus.publish(EVENT, b"event")
        await ada.nc.jetstream().publish(S.output(ADA, TaskId("t1")), b"output")
        await bus.publish(S.result(CommandId("s2")), b"result")
        await bus.publish("$KV.jc_worker.ada", b"change")
        await bus.publish("$KV.jc_secret.key", b"hidden")

        got = [(await subscription.next_msg(timeout=5)).data for subscription in live]

    assert got == [b"event", b"output", b"result", b"change"]
    assert live[3].pending_msgs == 0


@pytest.mark.parametrize("role", ["operator", "api"])
async def test_records_are_read_by_batched_direct_gets(server: Server, bus: Bus, role: str) -> None:
    for index in range(20):
        await bus.publish(f"$KV.jc_task.t{index}", b"{}")
    async with raw_role(server, role) as reader:
        inbox = reader.nc.new_inbox()
        answers = await reader.nc.subscribe(inbox)
        request = {"batch": 10, "seq": 1, "next_by_subj": "$KV.jc_task.>"}
        await reader.nc.publish(
            "$JS.API.DIRECT.GET.KV_jc_task", json.dumps(request).encode(), reply=inbox
        )
        page = [await answers.next_msg(timeout=5) for _ in range(11)]
        js = reader.nc.jetstream()
        last = await js.get_last_msg("KV_jc_worker", "$KV.jc_worker.ada", direct=True)
        depth = await js.stream_info("JC_TASK", subjects_filter=">")

    assert [m.headers["Nats-Subject"] for m in page[:10] if m.headers] == [
        f"$KV.jc_task.t{index}" for index in range(10)
    ]
    assert (page[10].headers or {})["Status"] == "204"
    assert last.data == b'{"state":"ready"}'
    assert depth.state.subjects == {"jetcrew.task.held": 1}


async def test_an_operator_follows_a_stream_from_its_beginning_and_watches_a_bucket(
    server: Server, bus: Bus
) -> None:
    """As `nats sub --all` and `nats kv watch` do."""
    async with raw_role(server, "operator") as operator:
        js = operator.nc.jetstream()
        name = "tail"
        await js.add_consumer(
            "JC_EVT",
            ConsumerConfig(
                name=name, filter_subject="jetcrew.evt.>", inactive_threshold=60,
                deliver_policy=DeliverPolicy.ALL,
            ),
        )  # fmt: skip
        pull = await js.pull_subscribe_bind(name, stream="JC_EVT")
        [event] = await pull.fetch(1, timeout=5)
        watch = await js.subscribe("$KV.jc_worker.>", stream="KV_jc_worker", ordered_consumer=True)
        record = await watch.next_msg(timeout=5)
        await bus.publish("$KV.jc_worker.ada", b"changed")
        change = await watch.next_msg(timeout=5)

    assert (event.subject, event.data) == (EVENT, b'{"type":"worker.ready"}')
    assert (record.data, change.data) == (b'{"state":"ready"}', b"changed")
    assert operator.refused == []


async def test_an_operator_hears_nothing_of_another_s_answers(server: Server) -> None:
    async with (
        raw_creds(server, server.identity.operator("alice"), "ops.alice") as alice,
        raw_role(server, "operator") as operator,
    ):
        assert await alice.subscribable(["_INBOX.ops.alice.>", "_INBOX.ops.operator.>"]) == [
            "_INBOX.ops.alice.>"
        ]
        assert await operator.subscribable(["_INBOX.ops.*.>", "_INBOX.>", ">", "jetcrew.>"]) == []


# -- what neither can do --------------------------------------------------------------------------

REQUESTS = {
    "operator": [
        ("$JS.API.DIRECT.GET.JC_TASK.jetcrew.task.held", b""),
        ("$JS.API.DIRECT.GET.KV_jc_worker.$KV.jc_worker.ada", b""),
        ("$JS.API.STREAM.MSG.GET.JC_RES", json.dumps({"last_by_subj": RES}).encode()),
        ("$JS.API.STREAM.INFO.JC_EVT", b""),
        ("$JS.API.CONSUMER.INFO.JC_CMD.mgr", b""),
    ],
    "api": [
        (f"$JS.API.DIRECT.GET.JC_RES.{RES}", b""),
        ("$JS.API.DIRECT.GET.KV_jc_worker", b'{"last_by_subj":"$KV.jc_worker.ada"}'),
        ("$JS.API.DIRECT.GET.JC_EVT", b'{"multi_last":["jetcrew.evt.>"]}'),
        ("$JS.API.STREAM.INFO.JC_EVT", b""),
    ],
}
TARGETS = [
    "$KV.jc_worker.ada",
    "$KV.jc_secret.key",
    "$KV.jc_session.ada.main",
    "jetcrew.evt.worker.ada.forged",
    "jetcrew.cmd.worker.delete",
    "jetcrew.task.ada",
    "jetcrew.run.ada",
    "jetcrew.rep.ada.ready",
    "jetcrew.res.s9",
    "jetcrew.dlq.JC_CMD.mgr",
    "$JS.API.STREAM.PURGE.JC_RES",
    "$JS.API.STREAM.DELETE.JC_RES",
    "$JS.API.CONSUMER.DELETE.JC_CMD.mgr",
]


@pytest.mark.parametrize("role", ["operator", "api"])
async def test_answers_cannot_be_aimed_anywhere(server: Server, bus: Bus, role: str) -> None:
    before = await everything(bus)
    heard: list[str] = []

    async def hear(message: Message) -> None:
        heard.append(message.subject)

    async with (
        bus.serve(S.control(ADA, "n0nce"), hear),
        bus.serve(S.heartbeat(ADA), hear),
        raw_role(server, role) as person,
    ):
        for subject, body in REQUESTS[role]:
            answer = await person.nc.request(subject, body, timeout=5)
            assert b'"error"' not in answer.data  # allowed as such
            for target in (*TARGETS, S.control(ADA, "n0nce"), S.heartbeat(ADA)):
                await person.nc.publish(subject, body, reply=target)
        await person.nc.request(*REQUESTS[role][0], timeout=5)  # all before it has been answered
        await person.settled()
        await bus.request("$JS.API.INFO", b"")

    assert await everything(bus) == before
    assert heard == []


WRITES = [
    "$KV.jc_worker.ada",
    "$KV.jc_secret.key",
    "$KV.jc_revoked.UABC",
    "jetcrew.evt.worker.ada.forged",
    "jetcrew.run.ada",
    "jetcrew.rep.ada.ready",
    "jetcrew.out.ada.t1",
    "jetcrew.res.s9",
    "jetcrew.dlq.JC_CMD.mgr",
    "jetcrew.hb.ada",
    "jetcrew.ctl.ada.n0nce",
    "jetcrew.ask.ada.task.start",
    "$JS.API.STREAM.CREATE.MINE",
    "$JS.API.STREAM.UPDATE.JC_EVT",
    "$JS.API.STREAM.DELETE.JC_RES",
    "$JS.API.STREAM.PURGE.JC_RES",
    "$JS.API.STREAM.MSG.DELETE.JC_TASK",
    "$JS.API.STREAM.SNAPSHOT.JC_TASK",
    "$JS.API.STREAM.RESTORE.JC_TASK",
    "$JS.API.STREAM.MSG.GET.KV_jc_secret",
    "$JS.API.DIRECT.GET.KV_jc_secret",
    "$JS.API.DIRECT.GET.KV_jc_secret.$KV.jc_secret.key",
    "$JS.API.DIRECT.GET.KV_jc_lease.$KV.jc_lease.manager",
    "$JS.API.DIRECT.GET.KV_jc_revoked.$KV.jc_revoked.UABC",
    "$JS.API.CONSUMER.CREATE.KV_jc_secret.mine.$KV.jc_secret.>",
    "$JS.API.CONSUMER.CREATE.JC_CMD.mine.jetcrew.cmd.>",
    "$JS.API.CONSUMER.DURABLE.CREATE.JC_EVT.mine",
    "$JS.API.CONSUMER.DELETE.JC_CMD.mgr",
    "$JS.API.CONSUMER.DELETE.JC_EVT.mine",
    "$JS.API.CONSUMER.PAUSE.JC_CMD.mgr",
    "$JS.API.CONSUMER.MSG.NEXT.JC_CMD.mgr",
    "$JS.API.CONSUMER.MSG.NEXT.JC_RUN.ada",
    "$JS.ACK.JC_CMD.mgr.1.1.1.0.0",
    "$SYS.REQ.CLAIMS.UPDATE",
    "$SYS.REQ.SERVER.PING",
]
READ_ONLY = [
    "jetcrew.cmd.worker.delete",
    "jetcrew.api.worker.delete",
    "jetcrew.task.ada",
    "$JS.API.STREAM.MSG.GET.JC_EVT",
    "$JS.API.STREAM.LIST",
    "$JS.API.CONSUMER.CREATE.JC_EVT.mine.jetcrew.evt.>",
    "$JS.API.CONSUMER.CREATE.KV_jc_worker.mine.$KV.jc_worker.>",
    "$JS.API.DIRECT.GET.JC_TASK.jetcrew.task.held",
    "$SRV.PING",
]


@pytest.mark.parametrize(("role", "subjects"), [("operator", WRITES), ("api", WRITES + READ_ONLY)])
async def test_what_is_not_imported_reaches_nobody_and_is_refused_at_once(
    server: Server, bus: Bus, role: str, subjects: list[str]
) -> None:
    heard: list[str] = []

    async def hear(message: Message) -> bytes:
        heard.append(message.subject)
        return b"{}"

    before = await everything(bus)
    async with (
        bus.serve("jetcrew.hb.*", hear),
        bus.serve("jetcrew.ctl.*.*", hear),
        bus.serve(S.ask("*", ">"), hear),
        bus.serve(S.door("*", ">"), hear),
        raw_role(server, role) as person,
    ):
        denied = set(subjects) - set(await person.publishable(subjects))
        for subject in subjects:
            if subject not in denied:
                with pytest.raises(NoRespondersError):
                    await person.nc.request(subject, b"{}", timeout=5)

    assert await everything(bus) == before
    assert heard == []
    assert denied <= {
        s for s in subjects if s.startswith(("jetcrew.evt", "jetcrew.out", "jetcrew.res"))
    }


async def test_a_push_consumer_of_an_operator_cannot_be_aimed_at_what_is_stored(
    server: Server, bus: Bus
) -> None:
    before = await everything(bus)
    async with raw_role(server, "operator") as operator:
        for index, target in enumerate(TARGETS):
            config = {"deliver_subject": target, "deliver_policy": "all", "name": f"aim{index}",
                      "filter_subject": "jetcrew.evt.>", "ack_policy": "none", "mem_storage": True,
                      "inactive_threshold": 1_000_000_000}  # fmt: skip
            await operator.nc.request(
                f"$JS.API.CONSUMER.CREATE.JC_EVT.aim{index}.jetcrew.evt.>",
                json.dumps({"stream_name": "JC_EVT", "config": config}).encode(),
                timeout=5,
            )
        # an event after them has been delivered wherever they deliver
        await bus.publish(EVENT, b'{"type":"worker.ready"}')
        after = await everything(bus)

    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"JC_EVT"}
    assert after["JC_EVT"][1] == before["JC_EVT"][1] + 1


async def test_the_system_account_is_for_the_server_and_sees_nothing_of_the_crew(
    server: Server, bus: Bus
) -> None:
    async with control_plane(server, "system") as system:
        answer = await system.request("$SYS.REQ.SERVER.PING", b"")
        assert b"jetcrew" in answer.data
        before = await everything(bus)
        await system.tell("$KV.jc_worker.ada", b"forged")
        await system.tell("jetcrew.cmd.worker.delete", b"{}")
        await system.request("$SYS.REQ.SERVER.PING", b"")
        assert await everything(bus) == before


async def test_every_role_is_let_in(server: Server) -> None:
    for role in ("manager", "infra", "projects", "system"):
        async with control_plane(server, role) as bus:
            assert bus.connected
    for role in ("operator", "api"):
        async with raw_role(server, role) as person:
            assert person.nc.is_connected
