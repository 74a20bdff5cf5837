"""The hub's pages in the lab's dress: no inline script, every control labelled, JupyterHub's blocks and hooks kept."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from traitlets.config import Config

from spawner.pages import configure_pages, forms, static_files
from spawner.pages.views import GpuView, LabView
from tests.unit.pages_html import NASTY, NO_GPU, NOW, UPSTREAM, Page, hub_environment, person, render, spawner

PAGES = [
    "login.html",
    "spawn.html",
    "spawn_pending.html",
    "stop_pending.html",
    "not_running.html",
    "error.html",
    "404.html",
    "home.html",
    "token.html",
    "admin.html",
]


@pytest.mark.parametrize("name", PAGES)
def test_page_runs_no_inline_script_and_loads_nothing_from_elsewhere(name: str):
    page = Page(render(name))
    for attrs in page.all("script"):
        assert (attrs.get("src") or "").startswith("/hub/static/"), f"{name} has an inline or foreign script"
    for _, attrs in page.elements:
        assert not [key for key in attrs if key.startswith("on")]
    for attrs in page.all("link") + page.all("img"):
        assert (attrs.get("href") or attrs.get("src") or "").startswith("/hub/static/")


@pytest.mark.parametrize("name", [name for name in PAGES if name not in ("token.html", "admin.html")])
def test_page_is_labelled_and_in_english(name: str):
    page = Page(render(name))
    page.assert_labelled()
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("h1")) == 1


@pytest.mark.parametrize("name", PAGES)
def test_names_stay_text_on_pages(name: str):
    values = {
        "user": person(NASTY, spawner(NASTY), spawner(NASTY, active=False)),
        "for_user": person("other" + NASTY),
        "server_name": NASTY,
        "spawner": spawner(NASTY, pending="spawn"),
        "error_message": NASTY,
        "message": NASTY,
        "failed": True,
        "failed_message": NASTY,
        "login_error": NASTY,
        "default_server": spawner(view=LabView(NASTY, (GpuView(NASTY, NASTY, 1024),))),
        "url": f"/hub/spawn/ana/{NASTY}?_xsrf=XSRF",
        "status_message": NASTY,
    }
    page = Page(render(name, **values))
    assert not [a for a in page.all("script") if "src" not in a]


# Pages that JupyterHub has none of.
OWN_PAGES = {"line.html", "gpus.html", "usage.html", "audit.html"}


@pytest.mark.parametrize("name", sorted({path.name for path in forms.TEMPLATES.glob("*.html")} - {"404.html"} - OWN_PAGES))
def test_every_block_of_jupyterhub_is_still_there(name: str):
    environment, _ = hub_environment()
    # page.html stands in for JupyterHub's own; the others extend it, so their blocks are there by inheritance.
    ours = set(re.findall(r"{%-?\s*block (\w+)", (forms.TEMPLATES / name).read_text()))
    theirs = set(re.findall(r"{%-?\s*block (\w+)", (UPSTREAM / name).read_text()))
    if name == "page.html":
        assert theirs <= ours
    else:
        assert f'"templates/{name}"' in (forms.TEMPLATES / name).read_text()
    environment.get_template(name)


def test_scripts_of_jupyterhub_find_what_they_read():
    upstream = (UPSTREAM / "page.html").read_text()
    wanted = set(re.findall(r"^\s+(\w+): ", upstream.split("window.jhdata = {")[1].split("};")[0], re.MULTILINE))
    attributes = next(a for a in Page(render("home.html")).all("script") if "data-jhdata" in a)
    assert wanted, "JupyterHub's page.html has changed its form"
    assert all(f'"{key}"' in (attributes["data-jhdata"] or "") for key in wanted)
    own = (static_files.FOLDER / "page.js").read_text()
    paths = re.findall(r"^\s+'?([\w-]+)'?: ['\"]\.\./components", upstream, re.MULTILINE)
    assert paths
    assert all(path in own for path in paths)


@pytest.mark.parametrize("name", ["page.html", "home.html", "login.html", "spawn_pending.html"])
def test_ids_that_others_hook_into_are_kept(name: str):
    hooks = {
        "page.html": ["jupyterhub-logo", "thenavbar", "login_widget", "logout", "dark-theme-toggle"],
        "home.html": ["start", "stop"],
        "login.html": ["login-main", "login_submit"],
        "spawn_pending.html": ["progress-bar", "progress-message", "progress-log", "stop-server-btn"],
    }
    ids = {attrs.get("id") for _, attrs in Page(render(name)).elements}
    assert set(hooks[name]) <= ids


def test_login_page_asks_for_a_token_and_shows_the_sentence():
    page = Page(render("login.html", user=None, login_error="That token is not known."))
    fields = {a.get("name"): a for a in page.all("input")}
    assert set(fields) == {"_xsrf", "token"}
    assert fields["token"]["type"] == "password"
    assert page.text_of(id="login-error") == "That token is not known."
    assert "gpulab token" in page.text


def test_login_page_offers_another_way_where_there_is_one():
    page = Page(render("login.html", user=None, login_service="Factory ID"))
    assert "Log in with Factory ID" in page.text
    assert not page.all("input")


def test_spawn_page_names_the_lab_and_keeps_what_was_refused_apart():
    refusal = forms.no_gpu_free_html(NO_GPU)
    page = Page(render("spawn.html", error_message="plain", html_error_message=refusal))
    assert "Start the lab “train”" in page.text
    assert "You asked for 2 GPUs; 1 of 2 is free." in page.text
    assert "plain" not in page.text
    targets = {a.get("id"): a for a in page.all("form")}
    assert targets[forms.DIRECT_START]["action"] == targets["spawn_form"]["action"] == "/hub/spawn/ana/train?_xsrf=XSRF"
    assert {a["form"] for a in page.all("button") if a.get("name") == "profile"} == {forms.DIRECT_START}


@pytest.mark.parametrize("address", ["/hub/spawn", "/hub/spawn/ana", "/hub/spawn/spawn", "/hub/spawn/ana/"])
def test_spawn_page_of_the_default_lab(address: str):
    assert "Start your lab" in Page(render("spawn.html", url=f"{address}?_xsrf=XSRF")).text


def test_start_for_someone_else_is_said():
    assert "for bo" in Page(render("spawn.html", for_user=person("bo"))).text


@pytest.mark.parametrize("spawn_url", ["/hub/spawn/ana", "/hub/spawn/ana?next=%2Fx"])
def test_failed_start_offers_the_way_back_with_a_valid_form(spawn_url: str):
    html = forms.no_gpu_free_html(NO_GPU)
    page = Page(render("not_running.html", failed=True, failed_html_message=html, spawn_url=spawn_url))
    form = next(a for a in page.all("form") if a.get("id") == forms.DIRECT_START)
    assert (form["action"] or "").startswith(spawn_url)
    assert re.search(r"[?&]_xsrf=XSRF$", form["action"] or "")
    assert "did not start" in page.text
    assert "Back to the profiles" in page.text


def test_failed_start_without_a_message_has_a_sentence_of_its_own():
    assert "Try again" in Page(render("not_running.html", failed=True)).text


def test_progress_page_carries_on_where_the_start_is():
    began = NOW.replace(tzinfo=None)
    page = Page(render("spawn_pending.html", moment=began + timedelta(seconds=75)))
    pending = next(a for _, a in page.elements if a.get("id") == "pending")
    assert pending["data-elapsed"] == "75"
    assert pending["data-server"] == "train"
    assert pending["data-form-url"] == "/hub/spawn/ana/train"


def test_home_page_shows_each_lab_with_what_can_be_done():
    labs = (spawner("run"), spawner("wait", pending="spawn"), spawner("end", pending="stop"), spawner("off", active=False))
    page = Page(render("home.html", user=person("ana", *labs), default_server=spawner(active=False)))
    ids = {attrs.get("id") for _, attrs in page.elements}
    assert {"start", "stop-run", "stop-wait", "start-off", "delete-off"} <= ids
    assert not {"stop", "stop-end", "delete-run", "stop-off"} & ids
    assert "One GPU" in page.text
    assert "running" in page.text
    assert "starting" in page.text
    assert "stopping" in page.text


def test_home_page_says_what_was_killed_in_a_lab_that_runs():
    lab = spawner("run")
    lab.lease_id = "1" * 32
    stopped = spawner(active=False)
    killed = {"run": ((NOW, f"The kernel of “{NASTY}” was killed."),)}
    page = Page(render("home.html", user=person("ana", lab), default_server=stopped, memory_kills=lambda s: killed[s.name]))
    assert f"The kernel of “{NASTY}” was killed." in page.text
    (note,) = [attrs for _, attrs in page.elements if "lab-killed" in (attrs.get("class") or "")]
    assert note["data-seen"] == f"{'1' * 32}-{int(NOW.timestamp())}"


def test_error_page_explains_the_rule_for_names():
    page = Page(render("error.html", status_code=400, message="Invalid server_name: 'Ä'"))
    assert "not a valid name for a lab" in page.text
    assert "Invalid server_name" not in page.text


def test_rule_for_names_is_jupyterhubs():
    from jupyterhub.slugs import is_valid_safe_slug

    field = next(a for a in Page(render("home.html")).all("input") if a.get("id") == "new-lab-name")
    names = ["a", "train-2", "-a", "a-", "a--b", "2a", "A", "ä", "", "a" * 30, "a" * 31, "a_b", "a.b"]
    for name in names:
        ours = bool(re.fullmatch(field["pattern"] or "", name)) and len(name) <= int(field["maxlength"] or 0)
        assert ours == is_valid_safe_slug(name), name


# --- settings and files ---


def test_settings_that_are_already_there_win():
    c = Config()
    c.JupyterHub.template_paths = ["/mine"]
    c.JupyterHub.template_vars = {"announcement": "hello"}
    c.JupyterHub.tornado_settings = {"headers": {"X-Mine": "1", "Referrer-Policy": "no-referrer"}, "cookie_options": {}}
    configure_pages(c)
    assert c.JupyterHub.template_paths == [str(forms.TEMPLATES), "/mine"]
    assert c.JupyterHub.template_vars["announcement"] == "hello"
    headers = c.JupyterHub.tornado_settings["headers"]
    assert headers["X-Mine"] == "1"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "script-src 'self';" in headers["Content-Security-Policy"]
    assert c.JupyterHub.tornado_settings["cookie_options"] == {}


def test_pages_ask_only_for_static_files_that_exist():
    for path in [*forms.TEMPLATES.rglob("*.html")]:
        for name in re.findall(r"""static_url\(["']gpulab/([^"']+)""", path.read_text()):
            assert (static_files.FOLDER / name).is_file(), f"{path.name} asks for {name}"


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colours_have_the_contrast_of_wcag_aa(theme: int):
    css = (static_files.FOLDER / "lab.css").read_text()
    blocks = re.findall(r"\{([^{}]*--lab-ground:[^{}]*)\}", css)
    assert len(blocks) == 2
    colours = dict(re.findall(r"--lab-([\w-]+): (#\w{6})", blocks[theme]))
    grounds = ["ground", "surface", "accent-soft"]
    pairs = [(text, ground) for text in ("text", "muted", "accent", "good") for ground in grounds]
    pairs += [
        ("warn", "warn-soft"),
        ("bad", "bad-soft"),
        ("badge", "badge-soft"),
        ("on-accent", "accent"),
        ("on-accent", "accent-strong"),
    ]
    for text, ground in pairs:
        assert contrast(colours[text], colours[ground]) >= 4.5, f"{text} on {ground}"
    for ground in grounds[:2]:
        assert contrast(colours["control"], colours[ground]) >= 3, f"control on {ground}"
