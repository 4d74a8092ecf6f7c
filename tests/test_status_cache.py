"""The answer cache: its bound in bytes, its order, and that what is dropped is gone."""

from hypothesis import given
from hypothesis import strategies as st

from status.cache import _OVERHEAD_BYTES, AnswerCache, OcspAnswer


def answer(size: int = 100) -> OcspAnswer:
    return OcspAnswer(bytes(size), 0, 2, 1, True, "v", 1)


def room_for(count: int) -> int:
    """Bytes for that many entries of `answer()` under keys of one byte."""
    return count * (101 + _OVERHEAD_BYTES)


def test_the_least_recently_used_goes_first() -> None:
    cache = AnswerCache(room_for(3))
    for serial, key in enumerate((b"a", b"b", b"c")):
        cache.put(key, "issuing", serial, answer())
    assert cache.get(b"a") is not None
    cache.put(b"d", "issuing", 4, answer())
    assert [cache.get(key) is not None for key in (b"a", b"b", b"c", b"d")] == [True, False, True, True]
    assert (len(cache), cache.size_bytes) == (3, room_for(3))


def test_what_is_larger_than_all_is_not_kept() -> None:
    cache = AnswerCache(room_for(1))
    cache.put(b"a", "issuing", 1, answer())
    cache.put(b"b", "issuing", 2, answer(101))
    assert cache.get(b"a") is not None
    assert cache.get(b"b") is None
    nothing = AnswerCache(0)
    nothing.put(b"a", "issuing", 1, answer())
    assert len(nothing) == 0


def test_drops() -> None:
    cache = AnswerCache(room_for(10))
    cache.put(b"1", "issuing", 1, answer())
    cache.put(b"2", "issuing", 1, answer())
    cache.put(b"3", "issuing", 2, answer())
    cache.put(b"4", "branch", 1, answer())
    cache.drop("issuing", 1)
    cache.drop("issuing", 99)
    cache.drop("nobody", 1)
    assert [key for key in (b"1", b"2", b"3", b"4") if cache.get(key)] == [b"3", b"4"]
    cache.drop_authority("branch")
    assert [key for key in (b"3", b"4") if cache.get(key)] == [b"3"]
    cache.clear()
    assert (len(cache), cache.size_bytes) == (0, 0)


steps = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 9), st.integers(0, 3), st.integers(0, 400)),
    st.tuples(st.just("get"), st.integers(0, 9), st.just(0), st.just(0)),
    st.tuples(st.just("drop"), st.just(0), st.integers(0, 3), st.just(0)),
)


@given(st.lists(steps, max_size=60))
def test_it_never_passes_its_bound_nor_forgets_what_to_drop(taken: list[tuple[str, int, int, int]]) -> None:
    cache = AnswerCache(room_for(4))
    owner: dict[bytes, int] = {}
    for step, number, serial, size in taken:
        key = bytes([number])
        if step == "put":
            cache.put(key, "issuing", serial, answer(size))
            owner[key] = serial
        elif step == "get":
            cache.get(key)
        else:
            cache.drop("issuing", serial)
            assert not [key for key, of in owner.items() if of == serial and cache.get(key)]
        kept = [cache.get(key) for key in owner]
        assert cache.size_bytes == sum(1 + len(a.der) + _OVERHEAD_BYTES for a in kept if a) <= room_for(4)
