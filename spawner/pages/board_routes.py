"""Which address of the board is answered by whom.

Owns the table of paths. Never answers a request.
"""

from __future__ import annotations

from typing import Any

from spawner.pages import board_actions as actions
from spawner.pages import board_handlers as handlers

ID = "([0-9a-f]{32})"
# Within the hub: a service of its own would be one more process, and could not stop a lab the way its owner does. JupyterHub puts
# its own prefix before each.
ROUTES: tuple[tuple[str, type[Any]], ...] = (
    (r"/gpus", handlers.BoardPageHandler),
    (r"/api/gpus", handlers.BoardHandler),
    (r"/api/gpus/line", handlers.LineHandler),
    (r"/api/gpus/history", handlers.HistoryHandler),
    (r"/api/gpus/events", handlers.EventsHandler),
    (r"/api/gpus/openapi\.json", handlers.DescriptionHandler),
    (r"/api/gpus/marks", actions.MarksHandler),
    (r"/api/gpus/marks/([^/]+)", actions.MarkHandler),
    (rf"/api/gpus/tickets/{ID}/move", actions.MoveHandler),
    (rf"/api/gpus/tickets/{ID}", actions.TicketHandler),
    (rf"/api/gpus/leases/{ID}/end", actions.EndHandler),
    (r"/api/gpus/maintenance", actions.MaintenanceHandler),
)
