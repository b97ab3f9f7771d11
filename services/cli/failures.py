"""How commands fail: one line, a next step, an exit code.

0 success · 1 the task did not succeed, or `doctor` found something · 2 wrong usage: the same call will
fail again · 3 the infrastructure failed, or is full: the same call may work later · 130 interrupted
"""

from typing import Any

from contracts.errors import (
    ConfigurationInvalid,
    Denied,
    InvalidMessage,
    JetcrewError,
    QueueFull,
    Refused,
    TooLarge,
)

SUCCESS, UNSUCCESSFUL, USAGE, INFRASTRUCTURE, INTERRUPTED = 0, 1, 2, 3, 130


class Usage(JetcrewError):
    """The command line asks for something that makes no sense."""


class NoCrew(JetcrewError):
    """Nothing runs that could be asked."""


class CrewFailed(JetcrewError):
    """A part of the crew ended, or does not answer."""


class DirectoryInUse(CrewFailed):
    """Another process has a crew on this state directory."""


class WorkerFailedToStart(JetcrewError):
    """The worker is not there to take the prompt."""


class Interrupted(JetcrewError):
    """Somebody pressed Ctrl-C, or the process was told to end."""


class OutputClosed(JetcrewError):
    """Whoever read our output has gone."""


def exit_code(error: BaseException) -> int:
    """What the shell gets."""
    match error:
        case (
            Usage() | InvalidMessage() | Refused() | TooLarge() | ConfigurationInvalid() | Denied()
        ):
            return USAGE
        case Interrupted() | KeyboardInterrupt():
            return INTERRUPTED
        case OutputClosed():
            return 141  # as the shell reports SIGPIPE
        case _:
            return INFRASTRUCTURE


def sentence(error: BaseException) -> str:
    """The error on one line, with a next step where the error itself has none."""
    text = str(error) or type(error).__name__
    if isinstance(error, QueueFull):
        text += "; wait for a task to end (jetcrew task list), then try again"
    elif isinstance(error, OSError) and error.strerror:
        what = f"{error.filename}: " if error.filename else "the system says: "
        text = f"{what}{error.strerror}; run it with --debug for the details"
    elif not isinstance(error, JetcrewError):
        text = f"{type(error).__name__}: {text}; run it with --debug for the details"
    return text


def failure_document(command: str, error: BaseException) -> dict[str, Any]:
    """The one JSON document of a command with `--json` that failed; that of `run` has all its usual keys."""
    usual = ("task", "end", "worker", "repository") if command == "run" else ()
    told = {"message": sentence(error), "field": getattr(error, "field", None)}
    return {"exit_code": exit_code(error), **dict.fromkeys(usual), "error": told}


def first_of(error: BaseException) -> BaseException:
    """The error that a group was raised for."""
    while isinstance(error, BaseExceptionGroup):
        ours = [e for e in error.exceptions if isinstance(first_of(e), JetcrewError)]
        error = (ours or list(error.exceptions))[0]
    return error
