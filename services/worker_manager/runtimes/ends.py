"""What an engine's record of a container says of its end."""

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from services.worker_manager.runtimes import Exit

SIGKILLED = 128 + signal.SIGKILL
LOST = 255
"""What an engine records for a container that ended while the engine was away."""
_FRACTION = re.compile(r"\.(\d{1,6})\d*")


@dataclass(frozen=True)
class Outage:
    """A time in which the engine did not answer, widened by what it needs to stop its containers."""

    began: datetime
    ended: datetime | None = None

    def covers(self, when: datetime) -> bool:
        """Whether something happened in it."""
        margin = timedelta(seconds=15)
        return self.began - margin <= when and (self.ended is None or when <= self.ended + margin)


def exit_of(
    state: Mapping[str, Any], *, oom_seen: bool, outage: Outage | None, log_tail: str
) -> Exit:
    """`state` is `State` of an inspect. An exit code above 128 is taken for a signal's: a wrapper does not
    end with such a code by itself. `oom_seen`: whether the engine told of a kill for want of memory, which
    it may do before or after it notes it; a child may have been killed, and the wrapper lived on."""
    code = int(state.get("ExitCode", 0))
    oom = bool(state.get("OOMKilled")) or oom_seen
    name = _signal_of(code)
    ended = moment(str(state.get("FinishedAt", "")))
    if state.get("Status") == "created" or code == LOST:
        return Exit(oom=oom, reason="unknown", log_tail=log_tail)
    if oom and code == SIGKILLED:
        reason = "oom"
    elif name is not None and outage is not None and ended is not None and outage.covers(ended):
        reason = "engine-lost"
    elif name is not None:
        reason = "killed"
    else:
        reason = f"exit-{code}"
    return Exit(code=code, oom=oom, signal=name, reason=reason, log_tail=log_tail)


def _signal_of(code: int) -> str | None:
    try:
        return signal.Signals(code - 128).name
    except ValueError:
        return None


def moment(text: str) -> datetime | None:
    """An engine's time, whose nanoseconds a datetime does not take; None when it is not one."""
    try:
        when = datetime.fromisoformat(_FRACTION.sub(r".\1", text))
    except ValueError:
        return None
    return when if when.tzinfo else when.replace(tzinfo=UTC)
