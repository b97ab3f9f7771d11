"""What a worker may be given, by the operator's caps."""

from contracts.errors import InvalidMessage
from contracts.worker import Limits
from services.worker_manager.settings import Caps


def within(caps: Caps, limits: Limits) -> None:
    """Hold a worker's limits against the operator's caps.

    Raises:
        InvalidMessage: one is above; names it.
    """
    for name in Limits.__struct_fields__:
        value, cap = getattr(limits, name), getattr(caps, name, None)
        if cap is not None and value > cap:
            raise InvalidMessage(
                f"{value:g} is above the operator's cap of {cap:g}", field=f"$.limits.{name}"
            )
