"""Slows down whoever tries wrong tokens, and nobody else.

Owns the counting, per address and over all of them, the delays, and the question whose address it is. Never sees a token
and never remembers a person. Who has tried no wrong token waits for nothing, however many others do.
"""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection

from spawner.errors import DeniedError

FIRST_DELAY = 0.5
LONGEST_DELAY = 8.0
# One wrong try of an address is forgiven per this many seconds; at most `MOST_COUNTED` are remembered.
FORGIVE_SECONDS = 30.0
MOST_COUNTED = 10.0
# Wrong tries over all addresses that go without notice; one is forgiven per second.
CROWD = 60.0
MOST_CROWD = 600.0
WAITING_PER_ADDRESS = 3
WAITING_IN_ALL = 100
ADDRESSES = 4096


class TooManyTries(DeniedError):
    """So many wrong tries are waiting that this one is not even looked at.

    Attributes:
        retry_after: seconds after which a try is looked at again.
    """

    status_code = 429
    reason = "too_many_tries"

    def __init__(self, retry_after: int) -> None:
        super().__init__(
            "Too many wrong tokens were tried from your address.",
            f"Wait {retry_after} seconds and try again; paste the whole token.",
        )
        self.retry_after = retry_after


def delay_seconds(own: float, everywhere: float) -> float:
    """How long the next try waits.

    Args:
        own: wrong tries that are remembered of this address.
        everywhere: wrong tries that are remembered of all addresses together.
    """
    if own <= 0:
        return 0.0
    alone = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** (math.ceil(own) - 1))
    return alone + min(LONGEST_DELAY, max(0.0, everywhere - CROWD) / CROWD)


def remembered(count: float, seconds: float, forgive_seconds: float) -> float:
    """What is left of a count of wrong tries after a time without one."""
    return max(0.0, count - seconds / forgive_seconds)


def client_address(peer: str, forwarded: str, proxies: Collection[str], trusted: Collection[str]) -> str:
    """Whose try it is, as a word to count by.

    Only the proxy is believed about whom it speaks for, and only the last address that it added; a header that the client
    sends itself (X-Real-Ip, earlier parts of X-Forwarded-For) could name anyone. One IPv6 site counts as one address.

    Args:
        peer: address at the other end of the connection.
        forwarded: value of X-Forwarded-For.
        proxies: addresses the lab's own proxy connects from, besides loopback.
        trusted: outer proxies that the admin trusts (`JupyterHub.trusted_downstream_ips`).
    """
    address = _parsed(peer)
    if address is None or not (address.is_loopback or peer in proxies):
        return _counted(address)
    for candidate in reversed(forwarded.split(",")):
        if candidate.strip() not in trusted:
            return _counted(_parsed(candidate.strip()) or address)
    return _counted(address)


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _parsed(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _counted(address: _Address | None) -> str:
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((address, 64), strict=False))
    return str(address or "unknown")


class SlowDown:
    """Counts wrong tries and makes the next ones wait. For one event loop; memory is bounded.

    Args:
        clock: seconds that never go back.
        sleep: waits so many seconds.
    """

    def __init__(self, clock: Callable[[], float], sleep: Callable[[float], Awaitable[object]]) -> None:
        self._clock = clock
        self._sleep = sleep
        self._own: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._everywhere = (0.0, clock())
        self._waiting: dict[str, int] = {}

    async def admit(self, address: str) -> None:
        """Wait as long as this address has to before its next try is looked at.

        Raises:
            TooManyTries: enough tries wait already.
        """
        count, since = self._own.get(address, (0.0, 0.0))
        wait = delay_seconds(self._left(count, since, FORGIVE_SECONDS), self._left(*self._everywhere, 1.0))
        if not wait:
            return
        waiting = self._waiting.get(address, 0)
        if waiting >= WAITING_PER_ADDRESS or sum(self._waiting.values()) >= WAITING_IN_ALL:
            raise TooManyTries(math.ceil(wait))
        self._waiting[address] = waiting + 1
        try:
            await self._sleep(wait)
        finally:
            self._waiting[address] -= 1
            if not self._waiting[address]:
                del self._waiting[address]

    def failed(self, address: str) -> None:
        """Remember a wrong try. A right one forgives nothing, or an own token would buy tries for others'."""
        now = self._clock()
        count, since = self._own.pop(address, (0.0, now))
        self._own[address] = (min(MOST_COUNTED, self._left(count, since, FORGIVE_SECONDS) + 1), now)
        while len(self._own) > ADDRESSES:
            self._own.popitem(last=False)
        self._everywhere = (min(MOST_CROWD, self._left(*self._everywhere, 1.0) + 1), now)

    def _left(self, count: float, since: float, forgive_seconds: float) -> float:
        return remembered(count, self._clock() - since, forgive_seconds)
