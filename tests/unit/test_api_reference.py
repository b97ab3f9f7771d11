"""The published description of the HTTP API."""

from pathlib import Path

from services.api.document import published

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "http.json"


def test_the_published_document_is_what_the_code_says() -> None:
    assert published() == REFERENCE.read_text(encoding="utf-8"), "stale: run `just docs`"
