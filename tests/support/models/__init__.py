"""A scripted model behind the interfaces that real coding agents speak.

Ready-made ones were looked at: aimock-pytest starts a Node process, fakellm and llmock bring a second
web framework; none lets a test decide each answer in Python with the request before it.
"""

from tests.support.models.endpoint import Endpoint, scripted_endpoint
from tests.support.models.script import (
    Fails,
    Hangs,
    Json,
    Request,
    Says,
    Script,
    Stalls,
    Step,
    Uses,
    in_order,
    result,
)

__all__ = [
    "Endpoint", "Fails", "Hangs", "Json", "Request", "Says", "Script", "Stalls", "Step", "Uses", "in_order", "result",
    "scripted_endpoint",
]  # fmt: skip
