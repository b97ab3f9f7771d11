"""The client's own reading of headers is the library's, only faster."""

from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client

from contracts.bus.client import QuickClient

NAMES = st.sampled_from(
    [b"Nats-Msg-Id", b" traceparent ", b"a b", b"", "Gr\u00fc\u00dfe".encode(), b"x" * 80]
)
LINES = st.tuples(
    NAMES | st.binary(max_size=80),
    st.sampled_from([b": ", b":", b"", b"::"]),
    st.binary(max_size=20),
)


@given(st.lists(LINES, max_size=6))
def test_headers_are_read_as_the_library_reads_them(
    lines: list[tuple[bytes, bytes, bytes]],
) -> None:
    block = b"\r\n".join(b"".join(line) for line in lines) + b"\r\n\r\n"

    # Twice: the second time their names are known.
    for _ in range(2):
        assert QuickClient._parse_header_lines(block) == Client._parse_header_lines(block)
