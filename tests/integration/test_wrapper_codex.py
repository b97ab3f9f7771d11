"""What is particular to the real Codex CLI."""

from pathlib import Path

from contracts.events import Verdict
from tests.support.attempts import Bench
from tests.support.clis import agent_file, path_with
from tests.support.models import Says, scripted_endpoint
from tests.support.rigs import RIGS, talk
from wrapper.agent import load_agent

SCHEMA = {
    "type": "object", "properties": {"answer": {"type": "number"}}, "required": ["answer"],
    "additionalProperties": False,
}  # fmt: skip


async def test_an_answer_of_a_given_form_comes_by_the_cli_s_own_means(tmp_path: Path) -> None:
    """Asked again in the same conversation, too."""
    rig = RIGS["codex"]
    right = '{"status": "success", "summary": "added", "data": {"answer": 4}}'
    async with scripted_endpoint(talk(Says("It is 4."), Says(right))) as endpoint:
        codex = Bench(
            tmp_path, load_agent(agent_file("codex")), path=path_with("codex"),
            env=rig.environment(endpoint.url), secrets=rig.secrets,
        )  # fmt: skip
        done = await codex.attempt("2 + 2?", data_schema=SCHEMA)

    assert done.state == "succeeded", done.end
    assert done.end.verdict == Verdict(status="success", summary="added", data={"answer": 4})
    assert all("'answer'" in str(request.body["text"]["format"]) for request in endpoint.requests)
