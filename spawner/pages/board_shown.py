"""One look at the board as JSON: whole for each viewer, and what changed since an earlier look.

Owns making every row once per change and not once per viewer. Never makes a row visible by itself: each goes through its `seen`.
"""

from __future__ import annotations

import json

from spawner.pages.board_views import BoardView, GpuRow, Load, TicketRow
from spawner.pages.viewer import Json, Viewer

NOBODY = Viewer()
EVERYONE = Viewer(names=True)
# Longer lines are told by their length: nobody reads so many rows, and each change would send them all.
LINE_SHOWN = 100


class Shown:
    """One look.

    Attributes:
        view: what was seen.
        number: counts looks; a greater one is later.
    """

    def __init__(self, view: BoardView, before: Shown | None = None) -> None:
        self.view = view
        self.number: int = before.number + 1 if before else 1
        self._rows = {row.id: row for row in view.rows}
        kept = before._kept(view) if before else {}
        # Where a row did not change its JSON is the very same object, so that a comparison by identity finds the changes.
        self._without = {row.id: kept[row.id][0] if row.id in kept else row.seen(NOBODY) for row in view.rows}
        self._with = {row.id: kept[row.id][1] if row.id in kept else row.seen(EVERYONE) for row in view.rows}
        self._mine: dict[str, list[GpuRow]] = {}
        for row in view.rows:
            if row.holder:
                self._mine.setdefault(row.holder.user, []).append(row)
        self._loads: dict[str, Json] = {}
        for row in view.rows:
            if row.id in view.loads:
                self._loads[row.id] = view.loads[row.id].json(row.memory_mib)
        self._tickets: dict[str, list[TicketRow]] = {}
        for ticket in view.line.tickets:
            self._tickets.setdefault(ticket.holder.user, []).append(ticket)
        self._load_texts: dict[int, str] = {}
        self._change_texts: dict[tuple[int, bool, frozenset[str]], str] = {}

    def _kept(self, view: BoardView) -> dict[str, tuple[Json, Json]]:
        return {
            row.id: (self._without[row.id], self._with[row.id])
            for row in view.rows
            if row.id in self._rows and self._rows[row.id] == row
        }

    def board(self, viewer: Viewer) -> Json:
        """All of it."""
        nothing = Load().json(0)
        own = self._own(viewer)
        base = self._base(viewer)
        rows = [{**(own.get(key) or base[key]), **self._loads.get(key, nothing)} for key in base]
        who = {"name": viewer.name, "names": viewer.names, "acts": viewer.acts}
        found = {"gpus": rows, "line": self.line(viewer), "profiles": self.profiles(viewer)}
        return {**self.head(viewer), "viewer": who, **found}

    def head(self, viewer: Viewer) -> Json:
        """What stands above the GPUs."""
        view = self.view
        return {
            "at": view.at.isoformat(timespec="seconds"),
            "problem": view.problem,
            "summary": view.counts.json(),
            "maintenance": view.maintenance.seen(viewer) if view.maintenance else None,
            "nodes": [node.seen(viewer) for node in view.nodes],
        }

    def line(self, viewer: Viewer, most: int = LINE_SHOWN) -> list[Json]:
        """The tickets at the front, and the viewer's own wherever they stand."""
        front = self.view.line.tickets[:most]
        own = [row for row in self._tickets.get(viewer.name, ()) if row not in front] if viewer.name else []
        return [row.seen(viewer) for row in (*front, *own)]

    def profiles(self, viewer: Viewer) -> list[Json]:
        """What a start would wait, by profile."""
        return [wait.json() for wait in self.view.line.waits if wait.key not in viewer.hidden]

    def change_text(self, viewer: Viewer, before: Shown) -> str:
        """`change` as JSON text; '' where nothing changed. Made once for all whom it concerns alike."""
        concerned = viewer.name and (
            viewer.name in self._tickets
            or viewer.name in before._tickets
            or self._mine.get(viewer.name) != before._mine.get(viewer.name)
        )
        if concerned:
            return _text(self.change(viewer, before))
        key = (before.number, viewer.names, viewer.hidden)
        if key not in self._change_texts:
            self._change_texts[key] = _text(self.change(Viewer(names=viewer.names, hidden=viewer.hidden), before))
        return self._change_texts[key]

    def change(self, viewer: Viewer, before: Shown) -> Json | None:
        """What the viewer sees otherwise than in an earlier look; None where nothing but time and load changed."""
        new, old = self._base(viewer), before._base(viewer)
        own, owned = self._own(viewer), before._own(viewer)
        rows = [own.get(key, row) for key, row in new.items() if row is not old.get(key) or own.get(key) != owned.get(key)]
        found: Json = {}
        if rows or len(old) != len(new):
            found["gpus"] = [{**row, **self._loads.get(row["id"], {})} for row in rows]
            found["gone"] = [key for key in old if key not in new]
        if self.view.line is not before.view.line:
            line, profiles = self.line(viewer), self.profiles(viewer)
            if line != before.line(viewer):
                found["line"] = line
            if profiles != before.profiles(viewer):
                found["profiles"] = profiles
        head, headed = self.head(viewer), before.head(viewer)
        found.update({key: value for key, value in head.items() if key != "at" and value != headed[key]})
        return {"at": head["at"], **found} if found else None

    def load_text(self, before: Shown) -> str:
        """The loads that changed since an earlier look, as JSON text; '' where none did. The same for everyone."""
        if before.number not in self._load_texts:
            changed = {
                key: load
                for key, load in self._loads.items()
                if {**load, "sampled": None} != {**before._loads.get(key, {}), "sampled": None}
            }
            at = self.view.at.isoformat(timespec="seconds")
            self._load_texts[before.number] = json.dumps({"at": at, "gpus": changed}) if changed else ""
        return self._load_texts[before.number]

    def _base(self, viewer: Viewer) -> dict[str, Json]:
        return self._with if viewer.names else self._without

    def _own(self, viewer: Viewer) -> dict[str, Json]:
        return {row.id: row.seen(viewer) for row in self._mine.get(viewer.name, ())} if viewer.name else {}


def _text(change: Json | None) -> str:
    return "" if change is None else json.dumps(change)
