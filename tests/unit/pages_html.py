"""Values, a strict HTML reader and the hub's way of drawing a page, for the tests of the pages."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PrefixLoader
from jupyterhub._data import DATA_FILES_PATH
from traitlets.config import Config

from spawner.pages import configure_pages, forms
from spawner.pages.views import Alternative, GpuSummary, GpuView, HolderView, LabView, NoGpuFreeView, ProfileCard, SpawnFormView

NOW = datetime(2026, 5, 12, 11, 0, tzinfo=timezone.utc)
GIB = 1 << 30
NASTY = """<script>alert("x")</script> & 'quoted' "double" """
FREE = GpuView("GPU 0", "NVIDIA L4", 24576)
HELD = GpuView("GPU 1", "NVIDIA L4", 24576, holder=HolderView("ana", "train", NOW - timedelta(minutes=48)))
CPU = ProfileCard("cpu", "CPU", "Notebooks.", gpus=0, cpus=2, memory=4 * GIB, shm=GIB)
ONE = ProfileCard("gpu-1", "1 GPU", "Train.", gpus=1, cpus=2, memory=8 * GIB, shm=2 * GIB, free=1)
TWO = ProfileCard("gpu-2", "2 GPUs", "Train more.", gpus=2, cpus=2, memory=16 * GIB, shm=4 * GIB, free=1)
BIG = ProfileCard("big", "Big", "", 2, 8, 32 * GIB, 8 * GIB, free=1, unavailable="This host has 2 CPUs; the profile asks for 8.")
FORM = SpawnFormView((CPU, ONE, TWO, BIG), GpuSummary((FREE, HELD)), NOW, viewer="bo")
NO_GPU = NoGpuFreeView(2, (FREE, HELD), NOW, viewer="bo", alternatives=(Alternative("cpu", "CPU", 0),))

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


class Page(HTMLParser):
    """Reads HTML strictly enough to notice what a browser would silently repair."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.texts: dict[int, list[str]] = {}
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        ids = [a["id"] for _, a in self.elements if "id" in a]
        assert len(ids) == len(set(ids)), f"an id is used twice: {ids}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        found = dict(attrs)
        self.elements.append((tag, found))
        self.texts[len(self.elements) - 1] = []
        if tag not in VOID:
            self.open.append((tag, found | {"#": str(len(self.elements) - 1)}))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:  # SVG elements
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        last = self.open.pop()
        assert last[0] == tag, f"</{tag}> closes <{last[0]}>"

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        for _, attrs in self.open:
            self.texts[int(attrs["#"] or 0)].append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]

    def text_of(self, **wanted: str) -> str:
        for index, (_, attrs) in enumerate(self.elements):
            if all(attrs.get(key) == value for key, value in wanted.items()):
                return " ".join("".join(self.texts[index]).split())
        raise AssertionError(f"no element has {wanted}")

    def assert_labelled(self) -> None:
        labels = {attrs.get("for") for attrs in self.all("label")}
        for attrs in [a for tag in ("input", "select", "textarea", "progress") for a in self.all(tag)]:
            if attrs.get("type") not in ("hidden", "submit"):
                named = attrs.get("id") in labels or attrs.get("aria-label") or attrs.get("aria-labelledby")
                assert named, f"no label for {attrs}"
        for index, (tag, attrs) in enumerate(self.elements):
            if tag in ("button", "a"):
                assert "".join(self.texts[index]).strip() or attrs.get("aria-label"), f"nothing to read on {attrs}"
        ids = {attrs.get("id") for _, attrs in self.elements}
        for _, attrs in self.elements:
            for key in ("aria-describedby", "aria-labelledby", "aria-controls", "for"):
                for target in (attrs.get(key) or "").split():
                    assert target in ids, f"{key} names {target!r}, which is not there"


# --- whole pages, drawn as the hub draws them ---

UPSTREAM = Path(DATA_FILES_PATH) / "templates"


def spawner(name: str = "", *, active: bool = True, pending: str | None = None, view: LabView | None = None) -> Any:
    return SimpleNamespace(
        name=name,
        display_name=name,
        active=active,
        ready=active and not pending,
        pending=pending,
        user_options={"profile": "gpu-1"},
        orm_spawner=SimpleNamespace(started=NOW.replace(tzinfo=None)),
        lab_view=view,
        options_form="yes",
    )


def person(name: str = "ana", *labs: Any) -> Any:
    return SimpleNamespace(
        name=name,
        escaped_name="ana",
        spawner=spawner(),
        server_url=lambda server="": f"/user/ana/{server}",
        all_spawners=lambda include_default: iter(labs),
    )


def hub_environment() -> tuple[Environment, dict[str, Any]]:
    c = Config()
    configure_pages(c, {"gpu-1": "One GPU"})
    own = FileSystemLoader([*c.JupyterHub.template_paths, str(UPSTREAM)])
    loader = ChoiceLoader([PrefixLoader({"templates": FileSystemLoader([str(UPSTREAM)])}, "/"), own])
    variables = {key: value(None) if callable(value) else value for key, value in c.JupyterHub.template_vars.items()}
    return Environment(loader=loader, autoescape=True), variables


def render(template: str, **values: Any) -> str:
    environment, variables = hub_environment()
    namespace = {
        "base_url": "/hub/",
        "prefix": "/",
        "user": person(),
        "login_url": "/hub/login",
        "logout_url": "/hub/logout",
        "static_url": lambda path, include_version=True: f"/hub/static/{path}",
        "version_hash": "1",
        "services": [],
        "parsed_scopes": {},
        "xsrf": "XSRF",
        "xsrf_token": "XSRF",
        "allow_named_servers": True,
        "named_server_limit_per_user": 3,
        "default_server": spawner(),
        "spawner": spawner("train", pending="spawn"),
        "progress_url": "/hub/api/progress?_xsrf=XSRF",
        "url": "/hub/spawn/ana/train?_xsrf=XSRF",
        "spawn_url": "/hub/spawn/ana/train",
        "server_name": "train",
        "spawner_options_form": forms.profile_form(FORM),
        "authenticator_login_url": "/hub/login?next=",
        "authenticator": SimpleNamespace(request_otp=False),
        "login_error": None,
        "status_code": 404,
        "status_message": "Not Found",
        "api_tokens": [],
        "oauth_clients": [],
        "api_page_limit": 50,
        "server_version": "6",
        **variables,
        # The hub draws its pages in a loop that can wait for an answer; this does not.
        "memory_kills": lambda _spawner: (),
    }
    return environment.get_template(template).render(namespace | values)
