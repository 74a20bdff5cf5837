"""Wrong tokens wait; right ones of other addresses do not."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spawner.auth import slowdown
from spawner.auth.slowdown import SlowDown, TooManyTries, client_address, delay_seconds, remembered


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def slow(time: Time) -> SlowDown:
    return SlowDown(time, time.sleep)


@pytest.mark.parametrize(
    ("own", "everywhere", "seconds"),
    [
        pytest.param(0, 0, 0, id="no wrong try"),
        pytest.param(0, 600, 0, id="no wrong try, but a crowd elsewhere"),
        pytest.param(1, 1, 0.5, id="one"),
        pytest.param(2, 2, 1, id="two"),
        pytest.param(3, 3, 2, id="three"),
        pytest.param(5, 5, 8, id="five"),
        pytest.param(10, 10, 8, id="the longest"),
        pytest.param(1, 60, 0.5, id="just no crowd"),
        pytest.param(1, 180, 2.5, id="a crowd"),
        pytest.param(10, 600, 16, id="the longest in a crowd"),
    ],
)
def test_delay_grows_with_the_own_tries_and_then_with_the_crowd(own: float, everywhere: float, seconds: float) -> None:
    assert delay_seconds(own, everywhere) == pytest.approx(seconds)


@given(st.floats(0, 10), st.floats(0, 10), st.floats(0, 600))
def test_delay_never_shrinks_with_more_tries_and_is_bounded(own: float, more: float, everywhere: float) -> None:
    assert 0 <= delay_seconds(own, everywhere) <= delay_seconds(own + more, everywhere) <= 2 * slowdown.LONGEST_DELAY


@given(st.floats(0, 10), st.floats(0, 1e6))
def test_remembered_only_forgets(count: float, seconds: float) -> None:
    assert 0 <= remembered(count, seconds, 30) <= count


async def test_each_wrong_try_makes_the_next_one_wait_longer(slow: SlowDown, time: Time) -> None:
    for _ in range(6):
        await slow.admit("a")
        slow.failed("a")
    assert time.slept == sorted(time.slept)
    assert time.slept[0] == slowdown.FIRST_DELAY
    assert time.slept[-1] == slowdown.LONGEST_DELAY


async def test_another_address_is_not_delayed(slow: SlowDown, time: Time) -> None:
    for _ in range(200):
        slow.failed("attacker")
    await slow.admit("engineer")
    assert time.slept == []


async def test_wrong_tries_are_forgiven_with_time(slow: SlowDown, time: Time) -> None:
    for _ in range(50):
        slow.failed("a")
    time.now += slowdown.FORGIVE_SECONDS * slowdown.MOST_COUNTED
    await slow.admit("a")
    assert time.slept == []


async def test_parallel_tries_beyond_three_are_turned_away(time: Time) -> None:
    gate = asyncio.Event()

    async def wait_at_gate(_seconds: float) -> None:
        await gate.wait()

    slow = SlowDown(time, wait_at_gate)
    slow.failed("a")
    waiting = [asyncio.ensure_future(slow.admit("a")) for _ in range(slowdown.WAITING_PER_ADDRESS)]
    await asyncio.sleep(0)
    with pytest.raises(TooManyTries, match="Wait 1 seconds") as refused:
        await slow.admit("a")
    assert refused.value.status_code == 429
    await slow.admit("somebody else")
    gate.set()
    await asyncio.gather(*waiting)
    assert slow._waiting == {}


async def test_a_hundred_waiting_addresses_are_all_that_wait(time: Time) -> None:
    gate = asyncio.Event()

    async def wait_at_gate(_seconds: float) -> None:
        await gate.wait()

    slow = SlowDown(time, wait_at_gate)
    names = [f"a{n}" for n in range(slowdown.WAITING_IN_ALL + 1)]
    for name in names:
        slow.failed(name)
    waiting = [asyncio.ensure_future(slow.admit(name)) for name in names[:-1]]
    await asyncio.sleep(0)
    with pytest.raises(TooManyTries):
        await slow.admit(names[-1])
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert slow._waiting == {}


def test_memory_is_bounded_and_keeps_the_latest(slow: SlowDown) -> None:
    for n in range(3 * slowdown.ADDRESSES):
        slow.failed(f"a{n}")
    assert len(slow._own) == slowdown.ADDRESSES
    assert f"a{3 * slowdown.ADDRESSES - 1}" in slow._own


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        pytest.param("127.0.0.1", "203.0.113.7", "203.0.113.7", id="through the proxy"),
        pytest.param("172.18.0.1", "203.0.113.7", "203.0.113.7", id="through the proxy, from the hub's own address"),
        pytest.param("127.0.0.1", "198.51.100.1, 203.0.113.7", "203.0.113.7", id="the client forged an earlier hop"),
        pytest.param("127.0.0.1", "203.0.113.7, 192.0.2.9", "203.0.113.7", id="behind a trusted outer proxy"),
        pytest.param("172.18.0.5", "203.0.113.7", "172.18.0.5", id="a lab that forges the header"),
        pytest.param("127.0.0.1", "", "127.0.0.1", id="no header"),
        pytest.param("127.0.0.1", "nonsense", "127.0.0.1", id="a header that is no address"),
        pytest.param("127.0.0.1", "::ffff:203.0.113.7", "203.0.113.7", id="IPv4 written as IPv6"),
        pytest.param("127.0.0.1", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", id="one IPv6 site counts as one"),
        pytest.param("", "203.0.113.7", "unknown", id="no peer"),
    ],
)
def test_client_address_believes_the_proxy_only(peer: str, forwarded: str, address: str) -> None:
    assert client_address(peer, forwarded, {"172.18.0.1"}, {"192.0.2.9"}) == address
