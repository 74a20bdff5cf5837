"""Draws the pieces of HTML that the spawner hands to the hub's pages.

Owns the spawn form, the answer when no GPU is free and the box around any other refusal; each also exists as plain text
where REST needs one. Only Jinja2 with autoescape makes the HTML. Never decides what is free or allowed: the numbers it is
given are advice, and the server checks again at the start.
"""

from __future__ import annotations

import functools
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from spawner.pages.views import NoGpuFreeView, SpawnFormView

TEMPLATES = Path(__file__).parent / "templates"

DIRECT_START = "direct_start"
"""Id of the empty form, present on every page that shows a refusal, which buttons of a refusal submit.

It belongs to the page and not to the refusal, because only the page knows its own address and XSRF token.
"""


@functools.lru_cache(maxsize=1)
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _draw(template: str, **values: object) -> str:
    return _environment().get_template(f"parts/{template}").render(**values)


def profile_form(view: SpawnFormView) -> str:
    """The inside of the spawn form: what is free, who holds the rest, and one radio button named `profile` per card."""
    return _draw("spawn_form.html", view=view)


def no_gpu_free_html(view: NoGpuFreeView) -> str:
    """The refusal when too few GPUs are free, with a button per alternative.

    The buttons send `profile=KEY` through the page's form `DIRECT_START`.
    """
    return _draw("no_gpu_free.html", view=view, form_id=DIRECT_START)


def no_gpu_free_text(view: NoGpuFreeView) -> str:
    """The same answer in one line of text, for REST and logs."""
    held = [
        f"{row.names} held by {row.holder.who(view.viewer)}"
        + (f" since {row.holder.since_text(view.now)}" if row.holder.since else "")
        + (", about to be free" if row.holder.ending else "")
        + "."
        for row in view.rows
    ]
    return " ".join([view.sentence, *held, view.advice])


def error_html(sentence: str, what_to_do: str = "") -> str:
    """Any other refusal: what happened, and the next step."""
    return _draw("refusal.html", sentence=sentence, what_to_do=what_to_do)


def queued_html(sentence: str) -> str:
    """The answer to a request that waits in line now, with the way to the line."""
    return _draw("queued.html", sentence=sentence)
