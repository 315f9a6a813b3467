"""Bundles: how messages that are published together are cut, numbered and read, and how a part of them is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transports.local.model import Draft, Pending, PlainDrafts, StoredMessage
from transports.local.storage.bundles import BUNDLE_BYTES, BUNDLE_MESSAGES, Bundle, Part, bits_by_bundle, bundled

TIME_US = 1_700_000_000_000_000
payloads = st.one_of(st.binary(max_size=20), st.sampled_from([b"k" * (BUNDLE_BYTES // 2), b"l" * (BUNDLE_BYTES + 1)]))
requests = st.lists(st.builds(Draft, payloads, ordering_key=st.sampled_from(["", "", "", "A", "B"])), min_size=1)


def cut(*drafts: Draft, first: int = 1) -> list[list[int]]:
    """Return the ids of messages by bundle."""
    return [each.whole.ids() for each in bundled(first, TIME_US, drafts)]


@st.composite
def parts(draw: st.DrawFn) -> Part:
    first, count = draw(st.integers(1, 1 << 53)), draw(st.integers(1, BUNDLE_MESSAGES))
    return Part(first, first + count - 1, draw(st.integers(0, (1 << count) - 1)))


class TestCutting:
    @given(requests, st.integers(1, 1 << 53))
    def test_what_is_published_is_read_again_in_its_order(self, drafts: list[Draft], first: int) -> None:
        found = bundled(first, TIME_US, drafts)
        assert [each for bundle in found for each in bundle.whole.ids()] == list(range(first, first + len(drafts)))
        assert [each for bundle in found for each in bundle.messages(bundle.whole.ids())] == [
            StoredMessage(first + place, TIME_US, draft.payload, draft.ordering_key)
            for place, draft in enumerate(drafts)
            if draft.payload
        ]

    @given(st.lists(payloads, min_size=1))
    def test_plain_messages_are_cut_as_any_others(self, found: list[bytes]) -> None:
        plain = PlainDrafts(found)
        assert list(plain) == [Draft(each) for each in found]
        assert list(plain[1:]) == [Draft(each) for each in found[1:]]
        assert bundled(1, TIME_US, plain) == bundled(1, TIME_US, list(plain))

    @given(requests)
    def test_no_bundle_is_larger_than_it_may_be(self, drafts: list[Draft]) -> None:
        for bundle in bundled(1, TIME_US, drafts):
            taken = drafts[bundle.first - 1 : bundle.last]
            assert len(taken) <= BUNDLE_MESSAGES
            assert len(taken) == 1 or sum(len(each.payload) for each in taken) <= BUNDLE_BYTES
            assert bundle.payload == b"".join(each.payload for each in taken)
            assert [each.ordering_key for each in taken if each.ordering_key] == [bundle.ordering_key] * bool(
                bundle.ordering_key
            )
            assert len(taken) == 1 or not bundle.ordering_key

    @pytest.mark.parametrize(("count", "bundles"), [(1, 1), (127, 1), (128, 1), (129, 2), (256, 2), (1000, 8)])
    def test_small_messages_are_cut_by_their_number(self, count: int, bundles: int) -> None:
        found = cut(*[Draft(b"x")] * count)
        assert len(found) == bundles
        assert [len(each) for each in found[:-1]] == [BUNDLE_MESSAGES] * (bundles - 1)

    def test_messages_of_a_kilobyte_fill_a_bundle_by_number_and_by_bytes(self) -> None:
        assert [len(each) for each in cut(*[Draft(b"x" * 1024)] * 300)] == [128, 128, 44]
        assert [len(each) for each in cut(*[Draft(b"x" * 2048)] * 130)] == [64, 64, 2]

    def test_what_follows_a_large_message_is_in_another_bundle(self) -> None:
        assert cut(Draft(b"x" * BUNDLE_BYTES), Draft(b"y"), Draft(b"z"), first=5) == [[5], [6, 7]]

    def test_a_large_message_is_in_another_bundle_than_small_ones_before_it(self) -> None:
        assert cut(Draft(b"x"), Draft(b"y"), Draft(b"z" * 9_000_000), Draft(b"u")) == [[1, 2], [3], [4]]

    def test_a_message_with_a_key_is_a_bundle_by_itself(self) -> None:
        plain, keyed = Draft(b"x"), Draft(b"x", {}, "A")
        assert cut(plain, plain, keyed, plain, keyed, keyed, plain) == [[1, 2], [3], [4], [5], [6], [7]]

    def test_what_nobody_wants_has_no_size_and_is_left_out(self) -> None:
        (bundle,) = bundled(7, TIME_US, [Draft(b"a"), Draft(b""), Draft(b"ccc"), Draft(b"")])
        assert bundle.payload == b"accc"
        assert [each.id for each in bundle.messages([7, 8, 9, 10])] == [7, 9]
        assert [each.payload for each in bundle.messages([9])] == [b"ccc"]


class TestPart:
    @given(parts())
    def test_its_members_are_read_as_they_were_written(self, part: Part) -> None:
        assert Part.read(part.first, part.last, part.members) == part

    @given(parts())
    def test_its_ids_are_its_bits(self, part: Part) -> None:
        ids = part.ids()
        assert ids == sorted(ids)
        assert sum(1 << each - part.first for each in ids) == part.bits
        assert len(ids) == part.total

    @given(st.integers(1, 1 << 53), st.integers(1, BUNDLE_MESSAGES))
    def test_members_are_nothing_exactly_when_they_are_all(self, first: int, count: int) -> None:
        every = (1 << count) - 1
        assert Part(first, first + count - 1, every).members is None
        for place in range(count):
            assert Part(first, first + count - 1, every & ~(1 << place)).members is not None

    @pytest.mark.parametrize(("count", "size"), [(1, 1), (8, 1), (9, 2), (127, 16), (128, 16)])
    def test_its_bitmap_has_a_byte_for_eight_messages(self, count: int, size: int) -> None:
        members = Part(1, count, 0).members
        assert members is not None
        assert len(members) == size

    @given(st.integers(1, BUNDLE_MESSAGES), st.sets(st.integers(0, 2 * BUNDLE_MESSAGES)))
    def test_a_bundle_gives_of_what_is_wanted_what_it_has(self, count: int, wanted: set[int]) -> None:
        (bundle,) = bundled(10, TIME_US, [Draft(b"x")] * count)
        assert bundle.part(wanted).ids() == sorted(wanted & set(range(10, 10 + count)))

    @given(st.integers(1, BUNDLE_MESSAGES), st.data())
    def test_a_subscription_sees_its_part_ready_and_never_delivered(self, count: int, data: st.DataObject) -> None:
        bundle = Bundle(*bundled(10, TIME_US, [Draft(b"x" * (each + 1)) for each in range(count)])[0])
        wanted = data.draw(st.sets(st.integers(10, 9 + count)))
        assert list(bundle.pending(bundle.part(wanted), ordered=True)) == [
            Pending(each, TIME_US, each - 9, bundle=10) for each in sorted(wanted)
        ]


@pytest.mark.parametrize(("ordered", "key"), [(True, "A"), (False, "")])
def test_only_who_keeps_an_order_sees_the_key(ordered: bool, key: str) -> None:
    (bundle,) = bundled(1, TIME_US, [Draft(b"x", {}, "A")])
    assert [each.ordering_key for each in bundle.pending(bundle.whole, ordered=ordered)] == [key]


@given(st.sets(st.integers(1, 4 * BUNDLE_MESSAGES)))
def test_messages_are_sorted_into_their_bundles(wanted: set[int]) -> None:
    found = bundled(1, TIME_US, [Draft(b"x")] * 4 * BUNDLE_MESSAGES)
    pending = [each for bundle in found for each in bundle.pending(bundle.part(wanted), ordered=False)]
    bits = bits_by_bundle(reversed(pending))
    assert {each.first: each.part(wanted).bits for each in found if each.part(wanted).bits} == bits
