"""Laying out what is larger than a message for a worker, as operators do it by the synchronous door."""

from typing import Annotated

from msgspec import Meta, Struct

from contracts.asks import Piece
from contracts.ids import Token

Digest = Annotated[
    str,
    Meta(
        pattern=r"^[0-9a-f]{64}(?!\n)$",
        description="A SHA-256 in hexadecimal, 64 lower-case digits.",
    ),
]


class _Laying(Struct, frozen=True, kw_only=True, omit_defaults=True):
    worker: Token
    """It need not be there yet."""
    name: Token
    """By which the worker will ask for it."""
    sha256: Digest
    """Of the whole."""


class LayPiece(_Laying, frozen=True, kw_only=True):
    """One more piece of it. Sending a piece again does no harm."""

    n: Annotated[int, Meta(ge=0)]
    """Counts the pieces, from 0."""
    data: Piece


class LayOut(_Laying, frozen=True, kw_only=True):
    """All pieces are there. They become an object if together they are what this says."""

    size_bytes: Annotated[int, Meta(ge=1)]
