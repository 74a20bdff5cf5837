"""The whole way on a real hub: login form, REST, sessions that end, doors that stay shut."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, urlparse

import pytest
import requests

from spawner.auth import MAX_TOKEN_SECONDS
from spawner.auth.slowdown import FIRST_DELAY
from tests.auth.conftest import AuthHub, Browser

NewBrowser = Callable[[], Browser]
UNKNOWN = "This token is not known or has expired. Ask your admin for a new one: gpulab token NAME."
FOR_PROGRAMS = "This token is for programs and cannot open a browser session."


def said(answer: requests.Response) -> str:
    """The one sentence that the login page shows."""
    found = re.search(r'class="login_error[^"]*"[^>]*>([^<]*)<', answer.text)
    assert found, answer.text
    return found[1]


def quickest(attempt: Callable[[], object]) -> float:
    """Seconds of the quickest of some tries: on a loaded machine one may be slow, but who has to wait waits every time."""
    best = math.inf
    for _ in range(8):
        started = time.monotonic()
        attempt()
        best = min(best, time.monotonic() - started)
        if best < FIRST_DELAY:
            break
    return best


# --- the token ----


def test_a_token_signs_in_on_the_login_page(hub: AuthHub, browser: Browser, name: str) -> None:
    answer = browser.login(hub.token(name))
    assert answer.status_code == 302
    assert browser.signed_in
    assert name in browser.get("/hub/home").text


def test_the_same_token_is_a_bearer_of_the_rest_api(hub: AuthHub, browser: Browser, name: str) -> None:
    token = hub.token(name)
    assert hub.api("GET", "/user", token).json()["name"] == name
    browser.login(token)
    assert hub.api("GET", f"/users/{name}", token).json()["admin"] is False


def test_blanks_around_a_pasted_token_do_not_matter(hub: AuthHub, browser: Browser, name: str) -> None:
    browser.login(f"  {hub.token(name)}\r\n")
    assert browser.signed_in


def test_login_goes_on_to_where_the_person_wanted_to_go(hub: AuthHub, browser: Browser, name: str) -> None:
    answer = browser.login(hub.token(name), path="/hub/login?next=%2Fhub%2Ftoken")
    assert answer.headers["Location"] == "/hub/token"


def test_login_goes_on_to_no_other_site(hub: AuthHub, browser: Browser, name: str) -> None:
    answer = browser.login(hub.token(name), path="/hub/login?next=https%3A%2F%2Fevil.example")
    assert urlparse(answer.headers["Location"]).netloc == ""


def test_the_admin_flag_is_the_persons_not_the_tokens(hub: AuthHub, new_browser: NewBrowser, name: str) -> None:
    engineer = new_browser()
    engineer.login(hub.token(name))
    assert engineer.get("/hub/admin").status_code == 403
    token = hub.token(name, admin=True)
    assert hub.api("GET", "/user", token).json()["admin"] is True
    assert engineer.get("/hub/admin").status_code == 200
    # Another token without the word changes nothing.
    again = new_browser()
    again.login(hub.token(name))
    assert again.get("/hub/admin").status_code == 200


# --- what does not sign in ----


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(b"0" * 32, id="never made"),
        pytest.param(b"a" * 10_000_000, id="10 MB"),
        pytest.param(b"\0" * 32, id="NUL"),
        pytest.param(b"\xff\xfe" * 16, id="not UTF-8"),
        pytest.param("пароль-令牌-🔑".encode(), id="unicode"),
        pytest.param(b"' OR 1=1 --' OR 1=1 --'", id="SQL"),
        pytest.param(b"<script>alert(1)</script>", id="HTML"),
        pytest.param(b"%(token)s %s %d {0} {{7*7}}", id="format characters"),
        pytest.param(b"../../etc/passwd", id="a path"),
    ],
)
def test_a_wrong_token_is_refused_in_one_sentence_and_not_repeated(hub: AuthHub, browser: Browser, token: bytes) -> None:
    answer = browser.login(token)
    assert answer.status_code == 403
    assert said(answer) == UNKNOWN
    assert len(answer.content) < 100_000
    assert token not in answer.content
    assert not browser.signed_in


def test_an_empty_field_is_not_a_wrong_try(browser: Browser) -> None:
    def empty() -> None:
        answer = browser.login("")
        assert (answer.status_code, said(answer)[:22]) == (403, "Paste your token first")

    empty()
    assert quickest(empty) < FIRST_DELAY


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"username": b"\xff\xfe"}, id="a user name that is not UTF-8"),
        pytest.param({"username": "admin", "password": "admin"}, id="user name and password"),
        pytest.param({"username": "u" * 5_000_000}, id="a user name of 5 MB"),
        pytest.param({"next": b"\xff"}, id="an address that is not UTF-8"),
        pytest.param({"token[]": "x", "auth": "{}"}, id="other fields"),
    ],
)
def test_other_fields_neither_help_nor_break(browser: Browser, fields: dict[str, bytes | str]) -> None:
    answer = browser.login(b"0" * 32, **fields)
    assert (answer.status_code, said(answer)) == (403, UNKNOWN)
    assert len(answer.content) < 100_000


def test_a_token_in_the_address_is_not_taken(hub: AuthHub, browser: Browser, name: str) -> None:
    token = hub.token(name)
    answer = browser.login("", path=f"/hub/login?token={token}")
    assert answer.status_code == 403
    assert token not in answer.text
    assert not browser.signed_in


def test_a_form_without_its_xsrf_field_is_refused(hub: AuthHub, browser: Browser, name: str) -> None:
    browser.get("/hub/login")
    url = f"{hub.url}/hub/login"
    answer = browser.http.post(url, data={"token": hub.token(name)}, timeout=20, allow_redirects=False)
    assert answer.status_code == 403
    assert not browser.signed_in


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"scopes": ["read:users!user={name}"]}, id="limited to some scopes"),
        pytest.param({"scopes": ["self"]}, id="limited to all of one's own"),
        pytest.param({"scopes": []}, id="limited to nothing"),
        pytest.param({"scopes": [], "note": "One-time sign-in, made by gpulab-cli"}, id="a forged one-time note"),
    ],
)
def test_a_limited_token_opens_no_session(hub: AuthHub, browser: Browser, name: str, body: dict[str, object]) -> None:
    own = hub.token(name)
    wish = {k: [x.format(name=name) for x in v] if isinstance(v, list) else v for k, v in body.items()}
    made = hub.api("POST", f"/users/{name}/tokens", own, json=wish)
    assert made.status_code == 201, made.text
    answer = browser.login(made.json()["token"])
    assert answer.status_code == 403
    assert said(answer).startswith(FOR_PROGRAMS)
    assert not browser.signed_in


def test_a_token_the_person_made_on_the_token_page_signs_in(hub: AuthHub, browser: Browser, name: str) -> None:
    own = hub.token(name)
    made = hub.api("POST", f"/users/{name}/tokens", own, json={"note": "Browser session, opened with token a1"})
    browser.login(made.json()["token"])
    assert browser.signed_in


def test_a_token_cannot_outlive_a_year(hub: AuthHub, name: str) -> None:
    own = hub.token(name)
    body = {"expires_in": MAX_TOKEN_SECONDS + 1}
    assert hub.api("POST", f"/users/{name}/tokens", own, json=body).status_code == 400
    assert hub.api("POST", f"/users/{name}/tokens", own, json={}).json()["expires_at"] is not None


def test_a_service_token_opens_no_session(hub: AuthHub, browser: Browser) -> None:
    answer = browser.login(hub.cli_token)
    assert answer.status_code == 403
    assert said(answer).startswith(FOR_PROGRAMS)


def test_an_expired_token_neither_signs_in_nor_keeps_a_session(hub: AuthHub, new_browser: NewBrowser, name: str) -> None:
    early, late = new_browser(), new_browser()
    # Long enough to sign in with, also where that takes its time.
    for seconds in (3, 12, 48):
        token = hub.token(name, expires_in=seconds)
        early.login(token)
        if early.signed_in:
            break
    assert early.signed_in
    deadline = time.monotonic() + 4 * seconds
    while hub.api("GET", "/user", token).ok:
        assert time.monotonic() < deadline, "the token did not expire"
        time.sleep(0.2)
    assert not early.signed_in
    assert said(late.login(token)) == UNKNOWN


def test_the_rest_api_takes_no_credentials_in_its_body(hub: AuthHub, name: str) -> None:
    token = hub.token(name, one_time=True)
    for auth in ({"token": token}, token, [token], {"username": name, "password": token}, None):
        answer = requests.post(f"{hub.url}/hub/api/users/{name}/tokens", json={"auth": auth}, timeout=20)
        assert answer.status_code == 403
    # and did not spend it
    assert hub.api("GET", "/user", token).status_code == 200


def test_nobody_signs_up(browser: Browser) -> None:
    assert browser.get("/hub/signup").status_code == 404


# --- labs' tokens ----


@pytest.fixture
def lab_token(hub: AuthHub, name: str) -> str:
    """Start a lab for the person; the token that JupyterHub gave the lab."""
    own = hub.token(name)
    assert hub.api("POST", f"/users/{name}/server", own, json={}).status_code in (201, 202)
    deadline = time.monotonic() + 30
    while not hub.api("GET", f"/users/{name}", own).json()["servers"].get("", {}).get("ready"):
        assert time.monotonic() < deadline, hub.log_text()[-3000:]
        time.sleep(0.1)
    return (hub.folder / name / "token").read_text()


def test_a_labs_own_token_opens_no_session(hub: AuthHub, browser: Browser, lab_token: str) -> None:
    assert hub.api("GET", "/user", lab_token).status_code == 200
    assert said(browser.login(lab_token)).startswith(FOR_PROGRAMS)


def test_a_labs_own_token_hands_out_no_tokens(hub: AuthHub, name: str, lab_token: str) -> None:
    assert hub.api("POST", f"/gpulab/sign-in/{name}", lab_token, json={}).status_code == 403
    assert hub.api("POST", f"/users/{name}/tokens", lab_token, json={}).status_code == 403


def test_revoke_leaves_a_running_lab_its_own_token(hub: AuthHub, name: str, lab_token: str) -> None:
    answer = hub.sign_in("DELETE", name).json()
    assert answer == {"name": name, "revoked": 1, "running": [""]}
    assert hub.api("GET", "/user", lab_token).status_code == 200
    assert hub.api("POST", f"/users/{name}/activity", lab_token, json={"last_activity": "2026-01-01T00:00:00Z"}).ok


# --- one-time ----


def test_a_one_time_token_signs_in_once(hub: AuthHub, new_browser: NewBrowser, name: str) -> None:
    token = hub.token(name, one_time=True)
    first, second = new_browser(), new_browser()
    first.login(token)
    assert first.signed_in
    assert said(second.login(token)) == UNKNOWN
    assert not second.signed_in
    assert first.signed_in


def test_of_many_parallel_logins_one_spends_the_one_time_token(hub: AuthHub, new_browser: NewBrowser, name: str) -> None:
    token = hub.token(name, one_time=True)
    browsers = [new_browser() for _ in range(8)]
    with ThreadPoolExecutor(len(browsers)) as pool:
        codes = sorted(answer.status_code for answer in pool.map(lambda b: b.login(token), browsers))
    assert codes == [302] + [403] * 7
    assert sum(browser.signed_in for browser in browsers) == 1


def test_a_one_time_token_does_nothing_on_the_rest_api(hub: AuthHub, name: str) -> None:
    token = hub.token(name, one_time=True)
    # It says whose it is, and no more.
    assert set(hub.api("GET", f"/users/{name}", token).json()) <= {"kind", "name", "admin", "groups", "user_info"}
    assert hub.api("POST", f"/users/{name}/tokens", token, json={}).status_code == 403
    assert hub.api("POST", f"/users/{name}/server", token, json={}).status_code in (403, 404)


# --- sessions ----


def test_revoke_ends_every_session_and_token_at_once(hub: AuthHub, new_browser: NewBrowser, name: str) -> None:
    token = hub.token(name)
    browsers = [new_browser(), new_browser(), new_browser()]
    for browser in browsers[:2]:
        browser.login(token)
    browsers[2].login(hub.token(name, one_time=True))
    assert [browser.signed_in for browser in browsers] == [True] * 3
    # three sessions and the token; the one-time token is spent
    assert hub.sign_in("DELETE", name).json() == {"name": name, "revoked": 4, "running": []}
    assert [browser.signed_in for browser in browsers] == [False] * 3
    assert hub.api("GET", "/user", token).status_code == 403
    assert hub.sign_in("DELETE", name).json()["revoked"] == 0


def test_a_new_token_does_not_wake_an_ended_session(hub: AuthHub, new_browser: NewBrowser, name: str) -> None:
    old, new = new_browser(), new_browser()
    old.login(hub.token(name))
    hub.sign_in("DELETE", name)
    new.login(hub.token(name))
    assert new.signed_in
    assert not old.signed_in
    # ... not even with the hub's own cookie of the new session: the session is another one.
    for cookie in new.http.cookies:
        if cookie.name == "jupyterhub-hub-login":
            old.http.cookies.set_cookie(cookie)
    assert not old.signed_in


def test_a_session_ends_with_its_own_token_while_another_goes_on(hub: AuthHub, new_browser: NewBrowser, name: str) -> None:
    kept, lost = new_browser(), new_browser()
    token = hub.token(name)
    doomed = hub.api("POST", f"/users/{name}/tokens", token, json={}).json()
    kept.login(token)
    lost.login(doomed["token"])
    assert lost.signed_in
    assert hub.api("DELETE", f"/users/{name}/tokens/{doomed['id']}", token).status_code == 204
    for _ in range(3):
        assert kept.signed_in
        assert not lost.signed_in


def test_logout_ends_the_session_for_good(hub: AuthHub, browser: Browser, name: str) -> None:
    browser.login(hub.token(name))
    stolen = [(c.name, c.value, c.domain, c.path) for c in browser.http.cookies]
    browser.get("/hub/logout")
    assert not browser.signed_in
    for key, value, domain, path in stolen:
        browser.http.cookies.set(key, value, domain=domain, path=path)
    assert not browser.signed_in


def test_a_session_shows_on_the_token_page_and_can_be_ended_there(hub: AuthHub, browser: Browser, name: str) -> None:
    token = hub.token(name)
    browser.login(token)
    assert "Browser session" in browser.get("/hub/token").text
    rows = hub.api("GET", f"/users/{name}/tokens", token).json()["api_tokens"]
    session = next(row for row in rows if row["note"].startswith("Browser session"))
    hub.api("DELETE", f"/users/{name}/tokens/{session['id']}", token)
    assert not browser.signed_in


def test_a_session_outlives_the_browser_window(hub: AuthHub, browser: Browser, name: str) -> None:
    browser.login(hub.token(name))
    for cookie in list(browser.http.cookies):
        if cookie.name == "jupyterhub-session-id":
            assert cookie.expires
            assert cookie.has_nonstandard_attr("HttpOnly")
    browser.http.cookies.clear_session_cookies()
    assert browser.signed_in


def test_sessions_and_their_end_survive_a_restart_of_the_hub(hub: AuthHub, new_browser: NewBrowser, name: str) -> None:
    goes_on, ended = new_browser(), new_browser()
    token = hub.token(name)
    doomed = hub.api("POST", f"/users/{name}/tokens", token, json={}).json()
    goes_on.login(token)
    ended.login(doomed["token"])
    hub.api("DELETE", f"/users/{name}/tokens/{doomed['id']}", token)
    hub.stop()
    hub.start()
    assert (goes_on.signed_in, ended.signed_in) == (True, False)


def test_login_gives_a_new_session_id(hub: AuthHub, browser: Browser, name: str) -> None:
    planted = "0123456789abcdef0123456789abcdef"
    browser.http.cookies.set("jupyterhub-session-id", planted, domain="127.0.0.1", path="/")
    browser.login(hub.token(name))
    assert planted not in [cookie.value for cookie in browser.http.cookies if cookie.name == "jupyterhub-session-id"]
    assert browser.signed_in


def test_access_to_a_service_ends_with_the_session(hub: AuthHub, browser: Browser, name: str) -> None:
    browser.login(hub.token(name))
    query = "client_id=service-board&response_type=code&redirect_uri=%2Fservices%2Fboard%2Fcallback&state=s"
    answer = browser.get(f"/hub/api/oauth2/authorize?{query}")
    assert answer.status_code == 302, answer.text
    code = parse_qs(urlparse(answer.headers["Location"]).query)["code"][0]
    made = requests.post(
        f"{hub.url}/hub/api/oauth2/token",
        data={
            "client_id": "service-board",
            "client_secret": "b" * 32,
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": "/services/board/callback",
        },
        timeout=20,
    )
    access = made.json()["access_token"]
    assert hub.api("GET", "/user", access).json()["name"] == name
    assert said(Browser(hub, "127.8.0.1").login(access)).startswith(FOR_PROGRAMS)
    session = next(c.value for c in browser.http.cookies if c.name == "jupyterhub-session-id")
    rows = hub.api("GET", f"/users/{name}/tokens", hub.token(name)).json()["api_tokens"]
    row = next(row for row in rows if row["session_id"] == session and row["note"].startswith("Browser session"))
    hub.api("DELETE", f"/users/{name}/tokens/{row['id']}", hub.token(name))
    assert hub.api("GET", "/user", access).status_code == 403


# --- the door of `gpulab token` ----


def test_a_person_is_made_once(hub: AuthHub, name: str) -> None:
    assert hub.sign_in("POST", name).json()["created"] is True
    assert hub.sign_in("POST", name).json()["created"] is False


def test_names_are_lower_case(hub: AuthHub, browser: Browser, name: str) -> None:
    answer = hub.sign_in("POST", name.upper())
    assert answer.json()["name"] == name
    browser.login(answer.json()["token"])
    assert browser.signed_in


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param("..", id="parent folder"),
        pytest.param("a%2Fb", id="slash"),
        pytest.param("%2e%2e%2fetc", id="path"),
        pytest.param("a%00b", id="NUL"),
        pytest.param("%C3%BC", id="umlaut"),
        pytest.param("%F0%9F%94%91", id="emoji"),
        pytest.param("%E2%84%AA", id="Kelvin sign, a k in lower case"),
        pytest.param("a%20b", id="blank"),
        pytest.param("-rf", id="looks like an option"),
        pytest.param("a" * 65, id="too long"),
        pytest.param("a" * 5000, id="far too long"),
        pytest.param("%3Cscript%3E", id="HTML"),
        pytest.param("a%0A", id="line end"),
    ],
)
def test_bad_names_are_refused_with_the_rule(hub: AuthHub, bad: str) -> None:
    # Not by `requests`, which would tidy the path up.
    session = requests.Session()
    request = requests.Request("POST", hub.url, headers={"Authorization": f"token {hub.cli_token}"}, json={})
    prepared = request.prepare()
    prepared.url = f"{hub.url}/hub/api/gpulab/sign-in/{bad}"
    answer = session.send(prepared, timeout=20)
    session.close()
    assert answer.status_code in (400, 404), answer.text
    if answer.status_code == 400:
        assert "1 to 64 of the characters" in answer.json()["message"]
    users = hub.api("GET", "/users", hub.token("root-of-this-test", admin=True)).json()
    assert all(re.fullmatch(r"[a-z0-9-]+", user["name"]) for user in users)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"admin": "yes"}, id="a string for a truth"),
        pytest.param({"admin": 1}, id="a number for a truth"),
        pytest.param({"expires_in": True}, id="a truth for a number"),
        pytest.param({"expires_in": 0}, id="no time at all"),
        pytest.param({"expires_in": -1}, id="the past"),
        pytest.param({"expires_in": MAX_TOKEN_SECONDS + 1}, id="more than a year"),
        pytest.param({"expires_in": 1e9}, id="a fraction"),
        pytest.param({"scopes": ["admin:users"]}, id="an unknown key"),
    ],
)
def test_a_wish_that_cannot_be_read_is_refused(hub: AuthHub, name: str, body: dict[str, object]) -> None:
    assert hub.sign_in("POST", name, **body).status_code == 400
    assert hub.sign_in("DELETE", name).status_code == 404


def test_ten_megabytes_of_json_are_refused(hub: AuthHub, name: str) -> None:
    answer = hub.sign_in("POST", name, note="x" * 10_000_000)
    assert answer.status_code == 400
    assert len(answer.content) < 1000


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_the_door_opens_for_the_scope_only(hub: AuthHub, browser: Browser, name: str, method: str) -> None:
    path = f"/gpulab/sign-in/{name}"
    assert requests.request(method, f"{hub.url}/hub/api{path}", timeout=20).status_code == 403
    admin = hub.token(name, admin=True)
    assert hub.api(method, path, admin).status_code == 403
    browser.login(admin)
    assert browser.http.request(method, f"{hub.url}/hub/api{path}", timeout=20).status_code == 403
    assert browser.signed_in


def test_the_command_lines_token_can_do_nothing_else(hub: AuthHub, name: str) -> None:
    hub.token(name)
    for method, path in [("GET", "/users"), ("POST", f"/users/{name}x"), ("POST", f"/users/{name}/tokens"), ("GET", "/proxy")]:
        assert hub.api(method, path, hub.cli_token, json={}).status_code in (403, 404), path


# --- slow ----


def test_wrong_tokens_are_slowed_down_and_right_ones_elsewhere_are_not(hub: AuthHub, new_browser: NewBrowser, name: str) -> None:
    attacker, engineer = new_browser(), new_browser()
    token = hub.token(name)
    took = []
    for _ in range(4):
        started = time.monotonic()
        attacker.login(b"0" * 32)
        took.append(time.monotonic() - started)
    assert quickest(lambda: new_browser().login(b"0" * 32)) < FIRST_DELAY, "a first wrong try of an address does not wait"
    assert took[1] >= FIRST_DELAY
    assert took[2] >= 1
    assert took[3] >= 2
    # Now the attacker waits with three more tries, and the fourth is turned away.
    with ThreadPoolExecutor(6) as pool:
        page = attacker.get("/hub/login")
        xsrf = re.search(r'name="_xsrf" value="([^"]+)"', page.text)
        assert xsrf
        form = {"_xsrf": xsrf[1], "token": "1" * 32}
        tries = [pool.submit(attacker.http.post, f"{hub.url}/hub/login", data=form, timeout=60) for _ in range(6)]
        assert quickest(lambda: engineer.login(token)) < FIRST_DELAY
        assert engineer.signed_in
        answers = [waiting.result() for waiting in tries]
    turned_away = [answer for answer in answers if answer.status_code == 429]
    assert len(turned_away) == 3
    assert said(turned_away[0]).startswith("Too many wrong tokens were tried from your address. Wait ")
    assert int(turned_away[0].headers["Retry-After"]) > 0


def test_a_forged_address_neither_hides_an_attacker_nor_hurts_another(hub: AuthHub, new_browser: NewBrowser, name: str) -> None:
    attacker, engineer = new_browser(), new_browser()
    for _ in range(3):
        for header in ("X-Real-Ip", "X-Forwarded-For"):
            attacker.http.headers[header] = engineer.address
        started = time.monotonic()
        attacker.login(b"0" * 32)
    assert time.monotonic() - started >= 1
    token = hub.token(name)
    assert quickest(lambda: engineer.login(token)) < FIRST_DELAY
    assert engineer.signed_in


# --- the log ----


def test_no_token_and_no_session_stands_in_the_log(hub: AuthHub, new_browser: NewBrowser, name: str) -> None:
    token = hub.token(name)
    once = hub.token(name, one_time=True)
    wrong = "f00dfacef00dfacef00dfacef00dface"
    browsers = [new_browser() for _ in range(3)]
    for browser, secret in zip(browsers, (wrong, token, once), strict=True):
        browser.login(secret)
        browser.get("/hub/home")
    new_browser().get(f"/hub/login?token={token}")
    cookies = [cookie.value or "-" * 32 for browser in browsers for cookie in browser.http.cookies]
    hub.sign_in("DELETE", name)
    log = hub.log_text()
    assert name in log
    for secret in (token, once, wrong, hub.cli_token, *cookies):
        assert secret not in log
        assert secret[4:] not in log


def test_the_hub_met_nothing_unexpected(hub: AuthHub) -> None:
    """Runs last in this file: all of the above left no traceback."""
    log = hub.log_text()
    assert "Traceback" not in log
    assert "Uncaught exception" not in log
