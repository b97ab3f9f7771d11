"""Agents of a test's own: small scripts with all that a coding agent has."""

from pathlib import Path

_TALK = r"""
import json, os, pathlib, sys, time
session, prompt = sys.argv[1], sys.stdin.read().split("\n")[0]
kept = pathlib.Path(os.environ["HOME"], f"{session}.talk")
said = kept.read_text() if kept.exists() else ""
kept.write_text(f"{said}{prompt}\n")
if prompt.startswith("until "):
    pathlib.Path(prompt[6:] + ".waits").touch()
    while not os.path.exists(prompt[6:]):
        time.sleep(0.05)
asks = prompt.endswith("?")
verdict = {"status": "in_progress" if asks else "success", "summary": "Which one?" if asks else "Done."}
text = f"{said}{prompt}\n<result>{json.dumps(verdict)}</result>"
usage = {"input_tokens": 100, "output_tokens": 20}
end = {"type": "result", "subtype": "success", "is_error": False, "result": text, "session_id": session,
       "num_turns": 1, "model_usage_since_last_result": {"talker": {"costUSD": 0.4}}, "usage": usage}
if prompt.startswith("limited"):
    end |= {"is_error": True, "result": "429: try again in 4 seconds"}
print(json.dumps({"type": "system", "subtype": "init", "session_id": session}))
print(json.dumps(end))
"""
_TALKER = f"""
name = "talker"
version = "1"
output = "claude"
first = {{ argv = [["python3", "-c", '''{_TALK}''', "{{session}}"]] }}
resume = {{ argv = [["python3", "-c", '''{_TALK}''', "{{session}}"]] }}
session = {{ source = "caller" }}
state_dir = "{{home}}"
conversation = ["{{session}}.talk"]
errors = [{{ pattern = '429: try again in (?P<seconds>[0-9]+) seconds', reason = "rate-limited" }}]
"""


def with_talker(directory: Path) -> Path:
    """A directory for `JETCREW_DATA` that holds `talker`: its answer is all that was said to it in this
    conversation, a prompt that ends with `?` it does not understand, at one that begins with `limited` its provider wants
    four seconds of rest, at `until FILE` it makes FILE.waits and waits for FILE, and each turn costs 0.4 USD."""
    agents = directory / "agents"
    agents.mkdir(parents=True)
    (agents / "talker.toml").write_text(_TALKER)
    return directory
