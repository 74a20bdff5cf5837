"""Who is looking at the board, and what they may see of others.

Owns the one rule of who sees a name: `Viewer.may_see`. Never knows how a viewer signed in (`board_handlers` does).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from spawner.model import Holder

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks at the board.

    Attributes:
        name: the person whose leases and tickets are "yours"; '' where nobody's are, as with services.
        names: sees everyone's names.
        acts: may drain, move, end and begin maintenance.
        hidden: keys of profiles that lab.yaml does not show them.
    """

    name: str = ""
    names: bool = False
    acts: bool = False
    hidden: frozenset[str] = frozenset()

    def may_see(self, holder: Holder | None) -> bool:
        """Whether the viewer may read the holder's name, and the ids that belong to them."""
        return holder is not None and (self.names or self.is_me(holder))

    def is_me(self, holder: Holder | None) -> bool:
        """Whether the viewer is the holder."""
        return holder is not None and self.name != "" and holder.user == self.name


def iso(moment: datetime | None) -> str | None:
    """ISO 8601 with zone; None stays None."""
    return moment.isoformat(timespec="seconds") if moment else None
