"""Command lines as they are understood, before anything is connected or started."""

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from contracts.codec import decode
from contracts.errors import (
    BusUnavailable,
    InvalidMessage,
    JetcrewError,
    NotThere,
    QueueFull,
    TooLarge,
)
from contracts.ids import TaskId, WorkerId
from contracts.results import Failure
from contracts.task import TaskRecord
from contracts.worker import CreateWorker, Limits
from services.cli.app import COMMANDS, root
from services.cli.errand import Outcome
from services.cli.failures import (
    CrewFailed,
    Interrupted,
    OutputClosed,
    Usage,
    exit_code,
    first_of,
    sentence,
)
from services.cli.link import refusal
from services.cli.options import Duration, Wait
from services.cli.running import Request, document, order_of, shown, spec_of
from services.cli.settings import Environment
from services.cli.target import named_target

NOBODY = Environment(variables={})


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(root, list(arguments), standalone_mode=False)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    told = invoke(name, "--help")

    assert told.exception is None or isinstance(told.exception, SystemExit)
    if name not in {"contracts", "version", "context"}:
        assert f"jetcrew {name}" in told.output


def test_help_lists_every_command_without_importing_one() -> None:
    told = invoke("--help").output

    assert all(f"  {name} " in told for name in COMMANDS)


def test_version_and_completion_print_and_nothing_else() -> None:
    assert json.loads(invoke("version", "--json").output).keys() == {"version"}
    assert "_JETCREW_COMPLETE=bash_complete" in invoke("completion", "bash").output


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90.0), ("1.5h", 5400.0), ("30m", 1800.0), ("7d", 604_800.0), ("0.5s", 0.5)],
)
def test_a_duration_has_a_unit_or_is_in_seconds(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "0", "-5", "8d", "ten", "5 minutes", "1e3", "nan"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no duration"):
        Duration().convert(text, None, None)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("redrive", "name letters"),
        ("redrive 3 --all", "name letters"),
        ("redrive 0", "0 is not in the range"),
        ("drop", "Missing parameter"),
        ("show nan", "'nan' is not a valid integer"),
    ],
)
def test_a_dead_letter_is_named_by_its_number(words: str, told: str) -> None:
    with pytest.raises(click.UsageError, match=told):
        root.main(["dlq", *words.split()], standalone_mode=False)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("task list --worker", "a worker"),
        ("image list --node", "a node"),
        ("image gc --node", "a node"),
        ("session list --worker", "a worker"),
        ("session list --owner", "an owner"),
    ],
)
def test_a_filter_that_can_match_nothing_is_refused(words: str, what: str) -> None:
    with pytest.raises(click.UsageError, match=f"'A B' is no name of {what}"):
        root.main([*words.split(), "A B"], standalone_mode=False)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Usage("x"), 2),
        (InvalidMessage("x"), 2),
        (NotThere("x"), 2),
        (TooLarge(2, 1), 2),
        (QueueFull("x"), 3),
        (BusUnavailable("x"), 3),
        (CrewFailed("x"), 3),
        (ValueError("x"), 3),
        (Interrupted("x"), 130),
        (KeyboardInterrupt(), 130),
        (OutputClosed("x"), 141),
    ],
)
def test_each_kind_of_failure_has_its_exit_code(error: BaseException, code: int) -> None:
    assert exit_code(error) == code


def test_a_group_of_errors_is_told_as_the_one_of_ours_in_it() -> None:
    ours = CrewFailed("the manager ended")
    group = BaseExceptionGroup("g", [ValueError("x"), BaseExceptionGroup("h", [ours])])

    assert first_of(group) is ours


def test_a_full_queue_comes_with_a_next_step() -> None:
    assert "jetcrew task list" in sentence(QueueFull("full"))


@pytest.mark.parametrize(
    ("failure", "kind", "text"),
    [
        (Failure(code=422, err_code=422, description="$.name: bad", field="$.name"), InvalidMessage, "$.name: bad"),
        (Failure(code=404, err_code=404, description="no ada"), NotThere, "no ada"),
        (Failure(code=503, err_code=503, description="away"), CrewFailed, "away"),
    ],
)  # fmt: skip
def test_a_doors_refusal_becomes_the_typed_error_again(
    failure: Failure, kind: type[JetcrewError], text: str
) -> None:
    error = refusal(failure)

    assert isinstance(error, kind)
    assert str(error) == text


def test_the_options_of_run_become_a_worker() -> None:
    request = Request(
        prompt="p", timeout=60, agent="shell", env={"A": "1"}, capabilities=("git",),
        network="none", runtime="docker", instructions="Be brief.", name="ada", project="apollo",
    )  # fmt: skip
    order = order_of(request, NOBODY)

    assert order.spec == CreateWorker(
        name="ada", agent="shell", env={"A": "1"}, capabilities=["git"], network="none", project="apollo",
        runtime="docker", instructions="Be brief.", labels=order.spec.labels if order.spec else {},
        lifetime="task",
    )  # fmt: skip
    assert (order.worker, order.timeout, order.keep) == ("ada", 60, False)


def test_what_bounds_a_worker_reaches_it_and_what_is_not_given_is_the_operators() -> None:
    request = Request(
        prompt="p", timeout=60, name="ada", keep=True, memory=512, cpus=0.5, idle_pause=0.0,
        queue_timeout=90.0,
    )  # fmt: skip
    spec = order_of(request, NOBODY).spec

    assert spec is not None
    assert spec.limits == Limits(memory_mb=512, cpus=0.5)
    assert (spec.lifetime, spec.queue_timeout) == ("persistent", 90.0)
    assert (spec.idle_pause, spec.idle_expiry) == (0.0, None)


@pytest.mark.parametrize(("text", "seconds"), [("never", 0.0), ("0", 0.0), ("10m", 600.0)])
def test_a_wait_may_be_never(text: str, seconds: float) -> None:
    assert Wait().convert(text, None, None) == seconds


def test_a_run_on_a_worker_that_exists_makes_none() -> None:
    order = order_of(Request(prompt="p", timeout=60, worker="ada"), NOBODY)

    assert (order.spec, order.worker) == (None, "ada")


def test_made_up_names_are_names_and_differ() -> None:
    orders = [order_of(Request(prompt="p", timeout=60), NOBODY) for _ in range(2)]

    assert orders[0].worker != orders[1].worker
    assert orders[0].task != orders[1].task


def test_a_secret_is_taken_from_the_environment_and_missing_ones_are_named() -> None:
    there = Environment(variables={"KEY": "value"})

    assert order_of(Request(prompt="p", timeout=1, secrets=("KEY",)), there).secrets == {
        "KEY": "value"
    }
    with pytest.raises(Usage, match="secret KEY is not in your environment"):
        order_of(Request(prompt="p", timeout=1, secrets=("KEY",)), NOBODY)
    with pytest.raises(Usage, match="is empty in your environment"):
        order_of(
            Request(prompt="p", timeout=1, secrets=("KEY",)), Environment(variables={"KEY": ""})
        )


def test_the_environment_is_not_in_its_repr() -> None:
    assert "hunter2" not in repr(Environment(variables={"KEY": "hunter2"}))


def test_a_prompt_over_the_limit_is_refused_before_anything_is_started() -> None:
    with pytest.raises(TooLarge, match="prompt of"):
        order_of(Request(prompt="x" * 800_000, timeout=60), NOBODY)


def test_a_bad_name_names_its_field() -> None:
    with pytest.raises(InvalidMessage, match=r"\$\.name"):
        spec_of(Request(prompt="p", timeout=1), "Ada")


def test_options_go_before_the_environment_and_both_before_a_context() -> None:
    environment = Environment(
        variables={"JETCREW_URL": "nats://env:4222", "JETCREW_CONTEXT": "saved"}
    )
    by_option = named_target(environment, url="host:4222", creds=None, context=None)
    by_environment = named_target(environment, url=None, creds=None, context=None)

    assert by_option is not None
    assert by_option.url == "nats://host:4222"
    assert by_environment is not None
    assert by_environment.url == "nats://env:4222"
    assert named_target(NOBODY, url=None, creds=None, context=None) is None


@pytest.mark.parametrize(
    ("url", "creds", "context"),
    [("nats://x", None, "saved"), (None, Path("x.creds"), None), (None, None, "../evil")],
)
def test_contradictions_about_the_crew_are_wrong_usage(
    url: str | None, creds: Path | None, context: str | None
) -> None:
    with pytest.raises(Usage):
        named_target(NOBODY, url=url, creds=creds, context=context)


def test_children_do_not_inherit_another_crews_address() -> None:
    environment = Environment(
        variables={"JETCREW_URL": "nats://far", "JETCREW_DATA": "/d", "PATH": "/bin"}
    )

    assert environment.for_child(JETCREW_STATE_DIR="/s") == {
        "JETCREW_DATA": "/d",
        "PATH": "/bin",
        "JETCREW_STATE_DIR": "/s",
    }


def test_the_document_has_task_end_and_worker_and_nothing_internal() -> None:
    at = "2026-01-31T12:00:00Z"
    task = decode(
        f'{{"id":"r1","worker":"ada","state":"succeeded","submitted_at":"{at}","changed_at":"{at}",'
        '"end":{"exit_code":0},"evt_seq":7}'.encode(),
        TaskRecord,
    )
    told = json.loads(document(Outcome(exit_code=0, task=task, worker=None)))

    assert told.keys() == {"exit_code", "task", "end", "worker", "repository", "error"}
    assert told["end"]["exit_code"] == 0
    assert told["task"]["state"] == "succeeded"
    assert not {"owed", "evt_seq"} & told["task"].keys()
    assert shown(None) is None


def test_ids_of_tasks_are_tokens() -> None:
    order = order_of(Request(prompt="p", timeout=1, worker="ada"), NOBODY)

    assert order.task == TaskId(order.task)
    assert order.worker == WorkerId("ada")


@pytest.mark.parametrize(
    ("whose", "complaint"),
    [
        ((), "--worker NAME or --owner NAME"),
        (("--worker", "ada", "--owner", "team"), "--worker NAME or --owner NAME"),
        (("--worker", "ada", "--agent", "claude"), "--agent is for a session of an owner's"),
    ],
)
def test_to_forget_a_session_one_says_whose(whose: tuple[str, ...], complaint: str) -> None:
    told = invoke("session", "forget", "review", *whose)

    assert isinstance(told.exception, click.UsageError)
    assert complaint in told.exception.message
