"""A worker's credential in the hands of somebody who wants more than it gives."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from nats.errors import NoRespondersError
from nats.js.errors import NotFoundError

from contracts.bus import Bus, Message, apply_consumer
from contracts.ids import CommandId, TaskId, WorkerId
from contracts.topology import Subjects, Topology
from tests.support.raw_nats import control_plane, everything, lets_in, raw_worker
from tests.support.servers import Server
from tests.support.waiting import eventually

ADA, BOB, T1 = WorkerId("ada"), WorkerId("bob"), TaskId("t1")
S = Topology().subjects


@pytest.fixture
async def bus(server: Server) -> AsyncIterator[Bus]:
    """The control plane, with everything a worker could wish to reach in place."""
    async with control_plane(server) as bus:
        for worker in (ADA, BOB):
            await apply_consumer(bus, bus.topology.run_consumer(worker))
            await bus.publish(S.run(worker), json.dumps({"for": worker}).encode())
            await bus.publish(f"$KV.jc_worker.{worker}", b'{"state":"ready"}')
            await bus.publish(f"$KV.jc_session.{worker}.main", json.dumps({"of": worker}).encode())
        await bus.publish("$KV.jc_secret.key", b'{"value":"s3cret"}')
        await bus.publish(f"{S.task(ADA)}", b'{"prompt":"held"}')
        yield bus


# -- what it is for -------------------------------------------------------------------------------


async def test_a_worker_reports_streams_output_and_works_off_its_assignment(
    server: Server, bus: Bus
) -> None:
    async with raw_worker(server, ADA) as ada:
        js = ada.nc.jetstream()
        report = await js.publish(S.report(ADA, "ready"), b"{}", headers={"Nats-Msg-Id": "n:1"})
        again = await js.publish(S.report(ADA, "ready"), b"{}", headers={"Nats-Msg-Id": "n:1"})
        output = await js.publish(S.output(ADA, T1), b"{}")
        pull = await js.pull_subscribe_bind("ada", stream="JC_RUN")
        [assignment] = await pull.fetch(1, timeout=5)
        await assignment.in_progress()
        await assignment.ack_sync()

        assert (report.stream, output.stream, again.duplicate) == ("JC_REP", "JC_OUT", True)
        assert json.loads(assignment.data) == {"for": "ada"}
        assert await bus.last_matching("JC_RUN", S.run(ADA)) is None
        assert ada.refused == []


async def test_a_worker_asks_and_the_subject_says_who_asks(server: Server, bus: Bus) -> None:
    async with (
        bus.listen(S.ask("*", ">")) as asked,
        raw_worker(server, ADA, verbs=["git.token"]) as ada,
    ):
        for verb in ("task.start", "credential", "git.token"):
            await ada.nc.publish(S.ask(ADA, verb), reply=f"_INBOX.ada.{verb}")
            message = await anext(asked)
            assert message.subject == f"jetcrew.ask.ada.{verb}"
        assert await ada.publishable([S.ask(ADA, "project.get")]) == []


async def test_an_ask_that_nobody_serves_is_answered_so_at_once(server: Server) -> None:
    async with raw_worker(server, ADA) as ada:
        with pytest.raises(NoRespondersError):
            await ada.nc.request(S.ask(ADA, "task.start"), b"{}", timeout=5)


async def test_a_worker_obeys_its_control_subject(server: Server, bus: Bus) -> None:
    async with raw_worker(server, ADA) as ada:
        control = await ada.nc.subscribe(S.control(ADA, ada.nonce))
        await ada.settled()
        await bus.tell(S.control(ADA, ada.nonce), b'{"type":"drain"}')

        assert (await control.next_msg(timeout=5)).data == b'{"type":"drain"}'


async def test_a_heartbeat_reaches_the_control_plane(server: Server, bus: Bus) -> None:
    async with bus.listen("jetcrew.hb.*") as beats, raw_worker(server, ADA) as ada:
        await ada.nc.publish(S.heartbeat(ADA))
        assert (await anext(beats)).subject == "jetcrew.hb.ada"


async def test_a_worker_reads_its_own_sessions_and_no_others(server: Server, bus: Bus) -> None:
    async with raw_worker(server, ADA) as ada:
        js = ada.nc.jetstream()
        own = await js.get_last_msg("KV_jc_session", "$KV.jc_session.ada.main", direct=True)
        assert own.data == b'{"of": "ada"}'
        with pytest.raises(NotFoundError):
            await js.get_last_msg("KV_jc_session", "$KV.jc_session.ada.other", direct=True)
        assert ada.refused == []
        direct = "$JS.API.DIRECT.GET.KV_jc_session"
        others = ("bob.main", "_shared.team.claude.review", "_shared.>")
        assert await ada.publishable([f"{direct}.$KV.jc_session.{key}" for key in others]) == []
        for body in (b'{"last_by_subj":"$KV.jc_session.bob.main"}', b'{"multi_last":[">"]}'):
            assert await ada.publishable([direct], body) == []


# -- what it is not for ---------------------------------------------------------------------------

FOREIGN_PUBLISH = [
    S.report(BOB, "ready"),
    S.report(BOB, "finished", T1),
    S.output(BOB, T1),
    S.output(ADA, TaskId("t1.deeper")),
    S.heartbeat(BOB),
    S.ask(BOB, "task.start"),
    S.ask(ADA, "secret.get"),
    S.ask("*", "task.start"),
    S.run(ADA),
    S.run(BOB),
    S.task(ADA),
    S.task("pool.p"),
    S.command("worker", "delete"),
    S.door("worker", "delete"),
    S.control(ADA, "x"),
    S.control(BOB, "x"),
    S.result(CommandId("s1")),
    S.dead_letter("JC_CMD", "mgr"),
    "jetcrew.evt.worker.ada.ready",
    "jetcrew.evt.task.ada.t1.succeeded",
    "jetcrew.kv.jc_worker.ada",
    "$KV.jc_worker.ada",
    "$KV.jc_session.ada.main",
    "$KV.jc_secret.key",
    "$JS.API.CONSUMER.MSG.NEXT.JC_RUN.bob",
    "$JS.API.CONSUMER.MSG.NEXT.JC_TASK.mgr",
    "$JS.ACK.JC_RUN.bob.1.2.1.0.0",
    "$JS.ACK.JC_TASK.mgr.1.1.1.0.0",
    "$JS.API.INFO",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.LIST",
    "$JS.API.STREAM.INFO.JC_RUN",
    "$JS.API.STREAM.CREATE.MINE",
    "$JS.API.STREAM.UPDATE.JC_REP",
    "$JS.API.STREAM.DELETE.JC_EVT",
    "$JS.API.STREAM.PURGE.JC_EVT",
    "$JS.API.STREAM.MSG.GET.JC_RUN",
    "$JS.API.STREAM.MSG.DELETE.JC_RUN",
    "$JS.API.STREAM.SNAPSHOT.JC_TASK",
    "$JS.API.CONSUMER.CREATE.JC_RUN.mine.jetcrew.run.ada",
    "$JS.API.CONSUMER.CREATE.JC_RUN",
    "$JS.API.CONSUMER.DELETE.JC_RUN.bob",
    "$JS.API.CONSUMER.PAUSE.JC_RUN.bob",
    "$JS.API.CONSUMER.INFO.JC_RUN.ada",
    "$JS.API.DIRECT.GET.KV_jc_worker.$KV.jc_worker.ada",
    "$JS.API.DIRECT.GET.KV_jc_secret.$KV.jc_secret.key",
    "$JS.API.DIRECT.GET.JC_TASK.jetcrew.task.ada",
    "$SYS.REQ.CLAIMS.UPDATE",
    "$SYS.REQ.SERVER.PING",
    "$SRV.PING",
    "_INBOX.bob.x",
    "_INBOX.manager.x",
    "anything",
]
FOREIGN_SUBSCRIBE = [
    ">",
    "*",
    "jetcrew.>",
    "jetcrew.*.ada.>",
    S.run(ADA),
    S.report(ADA, ">"),
    S.output(BOB, T1),
    "jetcrew.hb.*",
    "jetcrew.evt.>",
    "jetcrew.kv.>",
    "jetcrew.res.*",
    "jetcrew.ask.>",
    "jetcrew.ctl.>",
    S.control(ADA, "*"),
    S.control(ADA, ">"),
    S.control(ADA, "x"),
    S.control(BOB, "*"),
    "_INBOX.>",
    "_INBOX.*.>",
    "_INBOX.bob.>",
    "_INBOX.manager.>",
    "$JS.>",
    "$KV.>",
    "$SYS.>",
    "$SRV.>",
]


async def test_nothing_foreign_can_be_published_and_nothing_changes(
    server: Server, bus: Bus
) -> None:
    before = await everything(bus)
    async with raw_worker(server, ADA, verbs=["git.token"]) as ada:
        allowed = await ada.publishable(FOREIGN_PUBLISH, reply="_INBOX.ada.x")

    assert allowed == []
    assert await everything(bus) == before


async def test_nothing_foreign_can_be_subscribed_to(server: Server) -> None:
    async with raw_worker(server, ADA, verbs=["git.token"]) as ada:
        own = [S.control(ADA, ada.nonce), "_INBOX.ada.>"]
        assert await ada.subscribable([*FOREIGN_SUBSCRIBE, *own]) == own


async def test_an_assignment_is_acknowledged_by_the_worker_it_is_for_and_no_other(
    server: Server, bus: Bus
) -> None:
    """Sequences in acknowledgement subjects are small counters; guessing them must not help."""
    async with raw_worker(server, ADA) as ada, raw_worker(server, BOB) as bob:
        pull = await ada.nc.jetstream().pull_subscribe_bind("ada", stream="JC_RUN")
        [assignment] = await pull.fetch(1, timeout=5)

        assert await bob.publishable([assignment.reply], b"+ACK") == []
        guessed = assignment.reply.replace(".ada.", ".bob.")
        assert await bob.publishable([guessed], b"+ACK")  # its own consumer, not its message
        assert await bus.last_matching("JC_RUN", S.run(ADA)) is not None


# -- tricks with the subject of the answer --------------------------------------------------------


def own_requests(s: Subjects) -> list[tuple[str, bytes]]:
    """All that ada may send and that is answered."""
    return [
        (s.report(ADA, "ready"), b'{"forged":true}'),
        (s.output(ADA, T1), b'{"forged":true}'),
        ("$JS.API.CONSUMER.MSG.NEXT.JC_RUN.ada", b'{"batch":1,"expires":200000000}'),
        ("$JS.API.DIRECT.GET.KV_jc_session.$KV.jc_session.ada.main", b""),
        (s.ask(ADA, "task.start"), b"{}"),
        ("$JS.ACK.JC_RUN.ada.1.1.1.0.0", b"+WPI"),
    ]


async def test_answers_cannot_be_aimed_at_the_control_plane(server: Server, bus: Bus) -> None:
    targets = [
        "$KV.jc_worker.bob",
        "$KV.jc_session.bob.main",
        S.command("worker", "delete"),
        S.task(BOB),
        S.run(WorkerId("eve")),
        S.report(BOB, "ready"),
        S.output(BOB, T1),
        S.result(CommandId("s1")),
        "jetcrew.evt.worker.bob.forged",
        "$JS.API.STREAM.PURGE.JC_TASK",
        "$JS.API.CONSUMER.DELETE.JC_CMD.mgr",
    ]
    own = {"JC_REP", "JC_OUT"}
    before = await everything(bus)
    async with (
        raw_worker(server, ADA) as ada,
        bus.serve(S.ask("*", ">"), _echo),
    ):
        for subject, body in own_requests(S):
            for target in targets:
                await ada.nc.publish(subject, body, reply=target)
        marker = await ada.nc.request(S.ask(ADA, "credential"), b"done", timeout=5)
        assert marker.data == b"done"  # all that came before it has been dealt with
        await ada.settled()
        assert ada.refused == []

    async def reports() -> int:
        return int((await everything(bus))["JC_REP"][1])

    await eventually(reports, len(targets))  # a stream stores after the server has passed on
    after = await everything(bus)
    assert {n: v for n, v in after.items() if n not in own} == {
        n: v for n, v in before.items() if n not in own
    }
    for stream, foreign in (("JC_REP", "jetcrew.rep.bob.>"), ("JC_OUT", "jetcrew.out.bob.>")):
        assert await bus.last_matching(stream, foreign) is None


async def _echo(message: Message) -> bytes:
    return message.data


async def test_answers_cannot_be_aimed_at_another_worker_s_control(
    server: Server, bus: Bus
) -> None:
    """Ada's own assignment may read like a command; bob must not be able to get it as one."""
    async with raw_worker(server, ADA) as ada, raw_worker(server, BOB) as bob:
        control = await bob.nc.subscribe(S.control(BOB, bob.nonce))
        await bob.settled()
        async with bus.serve(S.ask("*", ">"), _echo):
            for subject, body in own_requests(S):
                for token in ("x", "*", ">", ada.nonce, "x.y"):
                    await ada.nc.publish(subject, body, reply=f"jetcrew.ctl.bob.{token}")
                await ada.nc.publish(subject, body, reply="jetcrew.ctl.bob")
            await ada.nc.request(S.ask(ADA, "credential"), b"done", timeout=5)
        await bus.tell(S.control(BOB, bob.nonce), b'{"type":"drain"}')

        assert (await control.next_msg(timeout=5)).data == b'{"type":"drain"}'


async def test_headers_that_command_the_server_do_nothing_in_a_worker_s_streams(
    server: Server, bus: Bus
) -> None:
    js_reports = S.report(ADA, "ready")
    async with raw_worker(server, ADA) as ada:
        js = ada.nc.jetstream()
        await js.publish(js_reports, b"{}")
        before = await everything(bus)
        for headers in (
            {"Nats-Rollup": "all"},
            {"Nats-Rollup": "sub"},
            {"Nats-Schedule": "@at 2000-01-01T00:00:00Z", "Nats-Schedule-Target": js_reports},
            {"Nats-TTL": "1s"},
            {"Nats-Trace-Dest": S.command("worker", "delete"), "Nats-Trace-Only": "true"},
        ):
            await ada.nc.publish(js_reports, b"{}", headers=headers)
        last = await js.publish(js_reports, b"{}")
        after = await everything(bus)

    assert after.pop("JC_REP")[1] == last.seq  # nothing was rolled up
    before.pop("JC_REP")
    assert after == before


# -- life and death -------------------------------------------------------------------------------


async def test_an_expired_credential_ends_the_connection_and_opens_no_other(
    server: Server,
) -> None:
    async with raw_worker(server, ADA, ttl=2) as ada:
        await eventually(ada.closed.is_set, True)
        await eventually(lambda: lets_in(server, ada.creds), False)  # whole seconds decide


async def test_a_renewed_credential_of_the_same_key_goes_on_in_mid_work(
    server: Server, bus: Bus
) -> None:
    async with raw_worker(server, ADA, ttl=3) as ada:
        js = ada.nc.jetstream()
        pull = await js.pull_subscribe_bind("ada", stream="JC_RUN")
        [assignment] = await pull.fetch(1, timeout=5)
        first = ada.creds.read_text()
        ada.renew(server, ttl=600)
        await ada.nc.force_reconnect()
        expired = server.state.root / "first.creds"
        expired.write_text(first)
        await eventually(lambda: lets_in(server, expired), False)
        await eventually(lambda: ada.nc.is_connected, True)

        await assignment.ack_sync()

        assert not ada.closed.is_set()
        assert await bus.last_matching("JC_RUN", S.run(ADA)) is None


async def test_twenty_workers_at_once_each_have_their_own_voice(server: Server, bus: Bus) -> None:
    async def speak(name: WorkerId) -> None:
        async with raw_worker(server, name) as worker:
            await worker.nc.jetstream().publish(S.report(name, "ready"), b"{}")
            assert worker.refused == []

    async with asyncio.TaskGroup() as group:
        for index in range(20):
            group.create_task(speak(WorkerId(f"w{index}")))

    for index in range(20):
        assert await bus.last_matching("JC_REP", f"jetcrew.rep.w{index}.>") is not None
