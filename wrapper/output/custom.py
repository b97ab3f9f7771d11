"""Any CLI that prints one JSON object a line: its agent file says where the answer stands."""

from collections.abc import Callable, Iterator

from contracts.agent import JsonAnswer
from wrapper.output.jsonl import Event, JsonLines, part, text_at
from wrapper.output.reading import Noted


class CustomOutput(JsonLines):
    """Looks at the places that it was told of."""

    def __init__(self, answer: JsonAnswer, fill: Callable[[str], str] = str) -> None:
        super().__init__()
        self._text, self._session, self._error = (
            fill(path).split(".") for path in (answer.text, answer.session, answer.error)
        )
        self._last = {fill(path): fill(value) for path, value in answer.last.items()}
        self.ends_with_event = any(self._last)

    def _event(self, event: Event) -> Iterator[Noted]:
        self.reading.session = text_at(event, *self._session) or self.reading.session
        last = self.ends_with_event and all(
            str(part(event, *path.split("."))) == value for path, value in self._last.items()
        )
        if text := text_at(event, *self._text):
            yield self._said(text)
        if last or not self.ends_with_event:
            self.reading.error = text_at(event, *self._error) or self.reading.error
        self.reading.final = last
