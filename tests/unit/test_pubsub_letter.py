"""A message that was set aside, and how it travels."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from transports.pubsub.dead.letter import DeadLetter
from transports.pubsub.server.messages import Received

LETTERS = st.builds(
    DeadLetter,
    queue=st.text(max_size=100),
    message_id=st.text("0123456789", min_size=1),
    published_at=st.floats(1e9, 2e9),
    reason=st.text(max_size=200),
    data=st.binary(),
)


def sent(letter: DeadLetter) -> Received:
    """The letter as a server delivers it."""
    message = letter.to_message()
    return Received("new id", "ack", message.data, published_at=3e9, attributes=message.attributes)


@given(LETTERS)
def test_a_letter_survives_the_way(letter: DeadLetter) -> None:
    assert DeadLetter.from_message(sent(letter)) == letter


def test_a_letter_says_where_its_message_came_from() -> None:
    received = Received("7", "ack", b"bytes", published_at=1.5, attributes={"task": "t"})
    letter = DeadLetter.of("gpu", received, "why")
    assert letter == DeadLetter("gpu", "7", 1.5, "why", b"bytes")


@given(st.text(min_size=1000))
def test_a_long_reason_is_cut_where_pubsub_allows(reason: str) -> None:
    found = DeadLetter("gpu", "7", 1.5, reason, b"").to_message().attributes["reason"]
    assert len(found.encode()) <= 1024
    assert reason.startswith(found)


def test_what_somebody_else_put_there_is_shown_all_the_same() -> None:
    letter = DeadLetter.from_message(Received("9", "ack", b"x", published_at=2.5))
    assert letter == DeadLetter("", "9", 2.5, "not said", b"x")
