"""Connections that say nothing: whoever opens one holds a file of the process, which its jobs need, too.

Nobody is known before a head has come, so what is cut off here has no name; an answer on its way is waited for.
"""

from __future__ import annotations

import resource
from collections.abc import Collection
from typing import Any

HEAD_SECONDS = 30.0
"""In which the head of a request comes, and the rest of a body of which nobody wants to hear any more."""
MOST = 10_000


class Connections:
    """Of one server: objects with `cycle`, what is asked there now, as uvicorn has them.

    Args:
        most: that are kept.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._known: dict[Any, tuple[Any, float | None]] = {}
        """By when they came: the request that was looked at, and since when nothing has followed it."""

    def superfluous(self, there: Collection[Any], now: float) -> list[Any]:
        """Those that are to be cut off: where nothing has come for long and, of too many, whoever is quiet for longest,
        then the newest.

        Args:
            there: all that there are.
            now: in seconds, of any clock that goes on.
        """
        known = {one: self._known[one] for one in self._known if one in there}
        for one in there:
            cycle, since = known.get(one, (None, None))
            if one.cycle is not None and not one.cycle.response_complete:
                since = None
            elif since is None or cycle is not one.cycle:
                since = now
            known[one] = one.cycle, since
        quiet = sorted((since, number) for number, (_, since) in enumerate(known.values()) if since is not None)
        busy = [number for number, (_, since) in enumerate(known.values()) if since is None]
        late = sum(now - since > HEAD_SECONDS for since, _ in quiet)
        cut = {number for _, number in quiet[: max(late, len(known) - self.most)]}
        cut |= set(busy[len(busy) - max(0, len(known) - len(cut) - self.most) :])
        gone = [one for number, one in enumerate(known) if number in cut]
        self._known = {one: told for number, (one, told) in enumerate(known.items()) if number not in cut}
        return gone


def most_connections() -> int:
    """How many this process may have: half of its files are for the rest of its work."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST if files == resource.RLIM_INFINITY else min(MOST, files // 2)
