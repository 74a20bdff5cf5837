"""The board on a real hub: page, JSON and stream for admin and engineer, and what an admin does on it."""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import re
import socket
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import jsonschema
import pytest
import requests
import yaml

from spawner.ledger import Ledger
from spawner.model import Holder
from spawner.pages import line_handlers, notice_handlers, usage_handlers
from spawner.pages.board_routes import ROUTES
from tests.support.hub import GPU_A, GPU_B, REPO, HubProcess
from tests.support.web import Browser

DESCRIPTION: dict[str, Any] = yaml.safe_load((REPO / "docs" / "openapi.yaml").read_text())
MISSING = "f" * 32


class Stream:
    """The events of one reader, taken in by a thread of its own."""

    def __init__(self, hub: HubProcess, token: str) -> None:
        self.events: queue.Queue[tuple[str, Any]] = queue.Queue()
        self.text = ""
        self._connection = http.client.HTTPConnection("127.0.0.1", hub.config.hub.port, timeout=40)
        self._connection.request("GET", "/hub/api/gpus/events", headers={"Authorization": f"token {token}"})
        self._socket = self._connection.sock
        self._answer = self._connection.getresponse()
        self.status = self._answer.status
        if self.status == 200:
            assert self._answer.headers["Content-Type"].startswith("text/event-stream")
            threading.Thread(target=self._read, daemon=True).start()
        else:
            self.text = self._answer.read().decode()
            self._connection.close()

    def _read(self) -> None:
        name = ""
        for raw in self._answer:
            line = raw.decode().rstrip("\n")
            self.text += f"{line}\n"
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                self.events.put((name, json.loads(line.removeprefix("data: "))))
        self._connection.close()

    def wait_for(self, name: str, condition: Any = lambda _: True, seconds: float = 20) -> Any:
        """The next event of a name that meets the condition."""
        while True:
            found, data = self.events.get(timeout=seconds)
            if found == name and condition(data):
                return data

    def close(self) -> None:
        """Leave, as a browser does: without a word. The reading thread sees the end and closes."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def stream(hub: HubProcess, token: str) -> Iterator[Stream]:
    opened = Stream(hub, token)
    assert opened.status == 200, opened.text
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture
def tokens(module_lab: HubProcess) -> Iterator[dict[str, str]]:
    """Tokens of an admin and two engineers; afterwards the lab is as it was."""
    hub = module_lab
    made = {"root": hub.token("root", admin=True), "ana": hub.token("ana"), "bo": hub.token("bo")}
    yield made
    hub.api("DELETE", "/gpus/maintenance", made["root"])
    board = read(hub, made["root"])
    for gpu in board["gpus"]:
        if gpu["out"]:
            hub.api("DELETE", f"/gpus/marks/{gpu['out']['subject']}", made["root"])
    for ticket in board["line"]:
        hub.api("DELETE", f"/gpus/tickets/{ticket['id']}", made["root"])
    for lease in hub.leases():
        hub.stop_lab(lease.holder.user, made["root"], lease.holder.server)


def read(hub: HubProcess, token: str, path: str = "/gpus") -> Any:
    answer = hub.api("GET", path, token)
    assert answer.status_code == 200, answer.text
    return checked(answer, "GET", path.partition("?")[0])


# --- answers are as they are described


def schema_of(found: Any) -> Any:
    """OpenAPI 3.0 as JSON schema: `nullable` is a type there."""
    if isinstance(found, list):
        return [schema_of(part) for part in found]
    if not isinstance(found, dict):
        return found
    if "$ref" in found:
        target: Any = DESCRIPTION
        for part in found["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return schema_of(target)
    made = {key: schema_of(value) for key, value in found.items() if key != "nullable"}
    return {"anyOf": [made, {"type": "null"}]} if found.get("nullable") is True else made


def checked(answer: requests.Response, method: str, path: str) -> Any:
    """The body of an answer, which must be as docs/openapi.yaml says."""
    path = f"/api{path}"
    for template, methods in DESCRIPTION["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path) and method.lower() in methods:
            told = schema_of(methods[method.lower()]["responses"])
            assert str(answer.status_code) in told, f"{method} {path} answered {answer.status_code}: {answer.text}"
            body = answer.json()
            jsonschema.validate(body, told[str(answer.status_code)]["content"]["application/json"]["schema"])
            return body
    raise AssertionError(f"{method} {path} is not described")


def act(hub: HubProcess, token: str, method: str, path: str, body: Any = None, status: int = 200) -> Any:
    answer = hub.api(method, path, token, **({} if body is None else {"json": body}))
    assert answer.status_code == status, answer.text
    return checked(answer, method, path)


HANDLERS = [*ROUTES, *line_handlers.HANDLERS, *notice_handlers.HANDLERS, *usage_handlers.HANDLERS]


def test_description_has_every_address_and_method_and_no_other():
    served = {
        (re.sub(r"\([^)]+\)", "{}", path).replace(r"\.", "."), name)
        for path, handler in HANDLERS
        for name in ("get", "put", "post", "delete")
        if path.startswith("/api") and name in vars(handler)
    }
    told = {(re.sub(r"\{\w+\}", "{}", path), name) for path, methods in DESCRIPTION["paths"].items() for name in methods}
    assert served == told


def test_description_is_a_valid_one_and_is_served(module_lab: HubProcess, tokens: dict[str, str]):
    assert read(module_lab, tokens["bo"], "/gpus/openapi.json") == DESCRIPTION
    for name, schema in schema_of(DESCRIPTION["components"]["schemas"]).items():
        jsonschema.Draft202012Validator.check_schema(schema), name


# --- who sees what


def test_admin_sees_names_and_engineers_see_their_own_and_the_counts(module_lab: HubProcess, tokens: dict[str, str]):
    hub = module_lab
    hub.start_lab("ana", tokens["ana"], "gpu-2", "anas-lab")
    assert hub.post_lab("bo", tokens["bo"], {"profile": "gpu-1"}, "bos-lab").status_code == 409
    (lease,) = hub.leases()

    seen = read(hub, tokens["root"])
    assert seen["summary"]["headline"] == "0 of 2 GPUs free, 1 request in line."
    assert [gpu["holder"] for gpu in seen["gpus"]] == [{"user": "ana", "server": "anas-lab"}] * 2
    assert [gpu["state"] for gpu in seen["gpus"]] == ["held", "held"]
    assert all(gpu["simulated"] for gpu in seen["gpus"])
    (ticket,) = seen["line"]
    assert (ticket["who"], ticket["number"]) == ("bo (lab “bos-lab”)", 1)

    for viewer, others in (("bo", ["ana", lease.id]), ("ana", ["bos-lab", ticket["id"]])):
        for path in ("/gpus", "/gpus/line?limit=1000", "/gpus/history", "/gpus/tickets", "/gpus/usage"):
            text = json.dumps(read(hub, tokens[viewer], path))
            assert [secret for secret in others if secret in text] == [], path
    assert [gpu["mine"] for gpu in read(hub, tokens["ana"])["gpus"]] == [True, True]
    assert read(hub, tokens["bo"])["line"][0]["id"] == ticket["id"]
    with stream(hub, tokens["bo"]) as reader:
        reader.wait_for("board")
        act(hub, tokens["root"], "POST", "/gpus/marks", {"subject": GPU_A, "reason": "new fan"}, 201)
        reader.wait_for("change")
    assert "ana" not in reader.text
    assert "root" not in reader.text


def test_token_of_a_lab_sees_the_counts_alone(module_lab: HubProcess, tokens: dict[str, str]):
    hub = module_lab
    hub.start_lab("ana", tokens["ana"], "gpu-1")
    made = hub.api("POST", "/users/ana/tokens", tokens["ana"], json={"scopes": ["access:servers!user=ana"]})
    assert made.ok, made.text
    seen = read(hub, made.json()["token"])
    assert [gpu["holder"] for gpu in seen["gpus"]] == [None, None]
    assert (seen["viewer"]["name"], seen["summary"]["free"]) == ("", 1)


@pytest.mark.parametrize("path", ["/gpus", "/gpus/line", "/gpus/history", "/gpus/events", "/gpus/openapi.json"])
def test_a_stranger_sees_nothing(module_lab: HubProcess, path: str):
    answer = requests.get(f"{module_lab.url}/hub/api{path}", timeout=20)
    assert answer.status_code == 403
    assert "Sign in" in answer.json()["message"]


def test_page_needs_a_sign_in_and_shows_names_to_admins_only(module_lab: HubProcess, tokens: dict[str, str]):
    hub = module_lab
    assert "/hub/login" in requests.get(f"{hub.url}/hub/gpus", timeout=20).url
    hub.start_lab("ana", tokens["ana"], "gpu-1", "anas-lab")
    page = Browser(hub, "bo").get("/hub/gpus").text
    assert "1 of 2 GPUs free, nobody in line." in page
    assert "anas-lab" not in page
    assert "End the lab" not in page


def test_limit_of_the_line_is_bounded(module_lab: HubProcess, tokens: dict[str, str]):
    for limit in ("0", "-1", "1001", "x", "9" * 30, "²"):
        answer = module_lab.api("GET", "/gpus/line", tokens["bo"], params={"limit": limit})
        assert answer.status_code == 400
        assert "from 1 to 1000" in answer.json()["message"]


# --- the stream


def test_stream_tells_a_start_and_a_stop(module_lab: HubProcess, tokens: dict[str, str]):
    hub = module_lab
    with stream(hub, tokens["root"]) as admin, stream(hub, tokens["bo"]) as engineer:
        for reader in (admin, engineer):
            first = reader.wait_for("board")
            jsonschema.validate(first, schema_of(DESCRIPTION["components"]["schemas"]["Board"]))
            assert first["summary"]["free"] == 2
        hub.start_lab("ana", tokens["ana"], "gpu-1")
        told = admin.wait_for("change", lambda data: any(gpu["state"] == "held" for gpu in data.get("gpus", [])))
        assert [gpu["words"] for gpu in told["gpus"]] == ["held by ana (default lab)"]
        told = engineer.wait_for("change", lambda data: any(gpu["state"] == "held" for gpu in data.get("gpus", [])))
        assert [gpu["words"] for gpu in told["gpus"]] == ["held"]
        hub.stop_lab("ana", tokens["ana"])
        engineer.wait_for("change", lambda data: data.get("summary", {}).get("free") == 2)
    assert "ana" not in engineer.text


def test_a_quiet_stream_says_that_it_lives(module_lab: HubProcess, tokens: dict[str, str]):
    with stream(module_lab, tokens["bo"]) as reader:
        reader.wait_for("board")
        reader.wait_for("tick", seconds=25)


def test_one_person_cannot_take_all_streams(module_lab: HubProcess, tokens: dict[str, str]):
    def one_more() -> Stream | None:
        opened = Stream(module_lab, tokens["bo"])
        return opened if opened.status == 200 else None

    opened = [module_lab.wait_for(one_more, 20, "a place for a reader") for _ in range(12)]
    try:
        answer = module_lab.api("GET", "/gpus/events", tokens["bo"])
        assert answer.status_code == 429
        assert "Too many live boards" in answer.json()["message"]
        with stream(module_lab, tokens["ana"]) as other:
            other.wait_for("board")
    finally:
        for one in opened:
            one.close()
    module_lab.wait_for(one_more, 10, "the places of readers who left").close()


# --- actions


def test_drained_gpu_is_given_to_nobody_until_it_is_returned(module_lab: HubProcess, tokens: dict[str, str]):
    hub, root = module_lab, tokens["root"]
    told = act(hub, root, "POST", "/gpus/marks", {"subject": GPU_A, "reason": " new\nfan "}, 201)
    assert (told["kind"], told["reason"], told["by"]) == ("drained", "new fan", "root")
    assert {gpu["id"]: gpu["state"] for gpu in read(hub, tokens["bo"])["gpus"]} == {GPU_A: "drained", GPU_B: "free"}
    hub.start_lab("ana", tokens["ana"], "gpu-1")
    assert hub.leases()[0].gpus == (GPU_B,)
    act(hub, root, "DELETE", f"/gpus/marks/{GPU_A}")
    assert {gpu["state"] for gpu in read(hub, root)["gpus"]} == {"free", "held"}
    act(hub, root, "DELETE", f"/gpus/marks/{GPU_A}", status=404)


def test_node_can_be_drained(module_lab: HubProcess, tokens: dict[str, str]):
    hub, root = module_lab, tokens["root"]
    (node,) = read(hub, root)["nodes"]
    act(hub, root, "POST", "/gpus/marks", {"subject": node["name"], "reason": "new kernel"}, 201)
    assert read(hub, root)["summary"]["out"] == 2
    act(hub, root, "DELETE", f"/gpus/marks/{node['name']}")


def test_lab_is_ended_with_a_message_for_its_owner(module_lab: HubProcess, tokens: dict[str, str]):
    hub, root = module_lab, tokens["root"]
    hub.start_lab("ana", tokens["ana"], "gpu-1", "train")
    (lease,) = hub.leases()
    told = act(hub, root, "POST", f"/gpus/leases/{lease.id}/end", {"message": "The room is too hot."})
    assert told["id"] == lease.id
    hub.wait_for(lambda: not hub.leases(), 60, "the lease to be released")
    assert hub.server_model("ana", tokens["ana"], "train") is None or not hub.server_model("ana", tokens["ana"], "train")["ready"]
    with ledger_of(hub) as ledger:
        ((_, _, ending),) = [found for found in ledger.endings(Holder("ana", "train")) if found[0] == lease.id]
        (event,) = ledger.events(actions=["lease.ended"])
        ledger.dismiss_endings("ana")
    assert ending == "An admin ended this lab: The room is too hot."
    assert (event.actor, event.user, event.gpus) == ("root", "ana", lease.gpus)
    act(hub, root, "POST", f"/gpus/leases/{lease.id}/end", {"message": "again"}, 404)


def test_tickets_are_moved_and_cancelled(module_lab: HubProcess, tokens: dict[str, str]):
    hub, root = module_lab, tokens["root"]
    cem = hub.token("cem")
    hub.start_lab("ana", tokens["ana"], "gpu-2")
    for name, token in (("bo", tokens["bo"]), ("cem", cem)):
        assert hub.post_lab(name, token, {"profile": "gpu-2"}).status_code == 409
    first, second = read(hub, root, "/gpus/line")["line"]
    assert [first["who"], second["who"]] == ["bo (default lab)", "cem (default lab)"]
    act(hub, root, "POST", f"/gpus/tickets/{second['id']}/move", {"ahead": 1})
    hub.wait_for(lambda: read(hub, root, "/gpus/line")["line"][0]["id"] == second["id"], 20, "the line to be moved")

    act(hub, tokens["bo"], "DELETE", f"/gpus/tickets/{second['id']}", status=404)
    act(hub, tokens["bo"], "DELETE", f"/gpus/tickets/{first['id']}")
    act(hub, root, "DELETE", f"/gpus/tickets/{second['id']}")
    act(hub, root, "DELETE", f"/gpus/tickets/{second['id']}", status=409)
    with ledger_of(hub) as ledger:
        ended = ledger.ticket(second["id"])
    assert ended is not None
    assert ended.why == "An admin took the request out of the line."


def test_maintenance_stops_new_starts_and_is_shown(module_lab: HubProcess, tokens: dict[str, str]):
    hub, root = module_lab, tokens["root"]
    deadline = (datetime.now(timezone.utc) + timedelta(hours=3)).isoformat(timespec="seconds")
    act(hub, root, "PUT", "/gpus/maintenance", {"message": "New disks.", "deadline": deadline})
    shown = read(hub, tokens["bo"])["maintenance"]
    assert (shown["message"], shown["by"], shown["deadline"]) == ("New disks.", "", deadline)
    refused = hub.post_lab("ana", tokens["ana"], {"profile": "gpu-1"})
    assert refused.status_code == 503
    assert "New disks." in refused.json()["message"]
    act(hub, root, "DELETE", "/gpus/maintenance")
    assert read(hub, tokens["bo"])["maintenance"] is None
    act(hub, root, "DELETE", "/gpus/maintenance")


ACTIONS = [
    ("POST", "/gpus/marks", {"subject": GPU_A, "reason": "mine"}),
    ("DELETE", f"/gpus/marks/{GPU_A}", None),
    ("POST", f"/gpus/tickets/{MISSING}/move", {"ahead": 1}),
    ("POST", f"/gpus/leases/{MISSING}/end", {"message": "mine"}),
    ("PUT", "/gpus/maintenance", {"message": "mine"}),
    ("DELETE", "/gpus/maintenance", None),
]


@pytest.mark.parametrize(("method", "path", "body"), ACTIONS)
def test_actions_are_refused_to_engineers(module_lab: HubProcess, tokens: dict[str, str], method: str, path: str, body: Any):
    told = act(module_lab, tokens["bo"], method, path, body, 403)
    assert "for admins" in told["message"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/gpus/marks", {"subject": "GPU-nowhere", "reason": "x"}, 404),
        ("POST", "/gpus/marks", {"subject": GPU_A}, 400),
        ("POST", "/gpus/marks", {"subject": GPU_A, "reason": " \n"}, 400),
        ("POST", "/gpus/marks", {"subject": GPU_A, "reason": "x" * 501}, 400),
        ("POST", "/gpus/marks", {"subject": [GPU_A], "reason": "x"}, 400),
        ("POST", "/gpus/marks", {"subject": GPU_A, "reason": "x", "more": 1}, 400),
        ("POST", "/gpus/marks", [], 400),
        ("POST", f"/gpus/tickets/{MISSING}/move", {"ahead": True}, 400),
        ("POST", f"/gpus/tickets/{MISSING}/move", {"ahead": 7}, 400),
        ("POST", f"/gpus/tickets/{MISSING}/move", {"ahead": 1}, 404),
        ("DELETE", f"/gpus/tickets/{MISSING}", None, 404),
        ("POST", f"/gpus/leases/{MISSING}/end", {"message": "x"}, 404),
        ("PUT", "/gpus/maintenance", {"message": "x", "deadline": "tomorrow"}, 400),
        ("PUT", "/gpus/maintenance", {"message": "x", "deadline": "2001-01-01T00:00:00+00:00"}, 400),
        ("PUT", "/gpus/maintenance", {"message": "x", "deadline": "2999-01-01T00:00:00"}, 400),
    ],
)
def test_wrong_requests_are_sentences(
    module_lab: HubProcess, tokens: dict[str, str], method: str, path: str, body: Any, status: int
):
    told = act(module_lab, tokens["root"], method, path, body, status)
    assert told["message"].endswith(".")
    assert not [gpu for gpu in read(module_lab, tokens["root"])["gpus"] if gpu["out"]]


@pytest.mark.parametrize("data", [b"{", b"[" * 10_000, b"\xff\xfe", b'{"message": "' + b"x" * 20_000 + b'"}'])
def test_a_body_that_cannot_be_read_is_a_sentence(module_lab: HubProcess, tokens: dict[str, str], data: bytes):
    answer = module_lab.api("PUT", "/gpus/maintenance", tokens["root"], data=data)
    assert answer.status_code == 400
    assert answer.json()["message"].endswith(".")


def test_a_form_of_another_site_does_nothing(module_lab: HubProcess):
    browser = Browser(module_lab, "ana")
    answer = browser.session.delete(f"{module_lab.url}/hub/api/gpus/maintenance", timeout=20)
    assert answer.status_code == 403
    assert "_xsrf" in answer.json()["message"]


@contextlib.contextmanager
def ledger_of(hub: HubProcess) -> Iterator[Ledger]:
    opened = Ledger.open(hub.config.ledger_url)
    try:
        yield opened
    finally:
        opened.close()
