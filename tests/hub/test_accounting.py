"""Accounting on a real hub: metrics, usage and journal, on pages, over REST and on the command line."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.hub.test_board import checked
from tests.support.hub import GPU_A, GPU_B, HubProcess
from tests.support.web import Browser

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(hub: HubProcess, token: str) -> Samples:
    answer = hub.session.get(f"{hub.url}/hub/metrics", headers={"Authorization": f"token {token}"}, timeout=30)
    assert answer.status_code == 200, answer.text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.name.startswith("gpulab_")
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, tuple(sorted(labels.items()))))


def usage(hub: HubProcess, token: str, **query: str) -> dict[str, Any]:
    answer = hub.api("GET", "/gpus/usage", token, params=query)
    assert answer.ok, answer.text
    found: dict[str, Any] = checked(answer, "GET", "/gpus/usage")
    return found


@pytest.fixture(scope="module")
def used(module_lab: HubProcess) -> Iterator[HubProcess]:
    """A lab with two GPUs, of which ana holds one; bo had both and cem was refused."""
    hub = module_lab
    bo = hub.token("bo")
    hub.start_lab("bo", bo, "gpu-2")
    hub.stop_lab("bo", bo)
    assert hub.post_lab("cem", hub.token("cem"), {"profile": "reference"}).status_code == 409
    ana = hub.token("ana")
    hub.start_lab("ana", ana, "gpu-1", "train")
    yield hub
    hub.stop_lab("ana", ana, "train")


def gpulab(hub: HubProcess, *words: str) -> str:
    program = "from spawner.cli import entry_point; raise SystemExit(entry_point())"
    command = [sys.executable, "-c", program, "--config", str(hub.files.yaml), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_metrics_need_a_scope_and_join_on_the_uuid(used: HubProcess):
    hub, root = used, used.token("root", admin=True)
    for token in (hub.token("ana"), "wrong"):
        answer = requests.get(f"{hub.url}/hub/metrics", headers={"Authorization": f"token {token}"}, timeout=30)
        assert answer.status_code == 403
    hub.wait_for(lambda: value(scrape(hub, root), "gpulab_leases", state="bound") == 1, 30, "the metrics to see the lab")
    shown = scrape(hub, root)
    (held,) = [dict(labels) for name, labels in shown if name == "gpulab_gpu_holder_info"]
    assert (held["user"], held["server"], held["profile"]) == ("ana", "train", "gpu-1")
    assert held["UUID"] in (GPU_A, GPU_B)
    free = GPU_A if held["UUID"] == GPU_B else GPU_B
    assert value(shown, "gpulab_gpu_state", UUID=held["UUID"], unit=held["UUID"], state="bound") == 1
    assert value(shown, "gpulab_gpu_state", UUID=free, unit=free, state="free") == 1
    assert {dict(labels)["UUID"] for name, labels in shown if name == "gpulab_gpu_info"} == {GPU_A, GPU_B}
    assert value(shown, "gpulab_requests_refused_total", reason="unavailable") == 1
    assert value(shown, "gpulab_requests_refused_total", reason="denied") == 0
    assert value(shown, "gpulab_tickets_waiting", profile="gpu-2") == 0
    assert value(shown, "gpulab_reading_ok") == 1
    assert (value(shown, "gpulab_lease_seconds_total", profile="gpu-2") or 0) > 0


def test_usage_over_rest_tells_admins_of_all_and_others_of_themselves(used: HubProcess):
    hub, root = used, used.token("root", admin=True)
    found = usage(hub, root, since="1h")
    by_user = {row["key"]: row for row in found["rows"]}
    assert set(by_user) == {"ana", "bo", "cem"}
    assert by_user["bo"]["gpu_hours"] > 0
    assert by_user["cem"]["refused_by_reason"] == {"unavailable": 1}
    assert found["total"]["labs"] == 2
    assert set(usage(hub, root, by="gpu", since="1h")["rows"][0]["key"][:4]) == set("GPU-")
    assert [row["key"] for row in usage(hub, root, by="profile", user="ana")["rows"]] == ["gpu-1"]

    ana = hub.token("ana")
    assert [row["key"] for row in usage(hub, ana, by="user")["rows"]] == ["ana"]
    others = hub.api("GET", "/gpus/usage", ana, params={"user": "bo"})
    assert (others.status_code, "Only admins" in others.json()["message"]) == (403, True)
    narrow = hub.api("POST", "/users/ana/tokens", ana, json={"scopes": ["access:servers!user=ana"]}).json()["token"]
    assert hub.api("GET", "/gpus/usage", narrow).status_code == 403
    assert hub.api("GET", "/gpus/usage", "wrong").status_code == 403


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"since": "yesterday"}, "is not a time"),
        ({"since": "93d"}, "looks back over 92 days at most"),
        ({"since": "1d", "until": "2d"}, "ends before it begins"),
        ({"by": "shoe<size>"}, "There are no sums by"),
    ],
)
def test_a_question_that_cannot_be_answered_says_the_rule(used: HubProcess, query: dict[str, str], sentence: str):
    answer = used.api("GET", "/gpus/usage", used.token("ana"), params=query)
    assert answer.status_code == 400
    assert sentence in answer.json()["message"]


def test_journal_over_rest_pages_and_is_for_admins(used: HubProcess):
    hub, root = used, used.token("root", admin=True)
    assert hub.api("GET", "/gpus/audit", hub.token("ana")).status_code == 403
    everything = checked(hub.api("GET", "/gpus/audit", root), "GET", "/gpus/audit")
    assert everything["next"] is None
    numbers, before = [], 0
    while before is not None:
        page = hub.api("GET", "/gpus/audit", root, params={"limit": 2, "before": before}).json()
        numbers += [event["number"] for event in page["events"]]
        before = page["next"]
    assert numbers == [event["number"] for event in everything["events"]]
    mine = hub.api("GET", "/gpus/audit", root, params={"user": "bo", "gpu": GPU_A}).json()["events"]
    assert [event["action"] for event in mine] == ["lease.released", "lease.draining", "lease.bound", "lease.acquired"]
    assert hub.api("GET", "/gpus/audit", root, params={"limit": "many"}).status_code == 400


def test_pages_show_the_same_and_escape_what_was_typed(used: HubProcess):
    hub = used
    hub.token("root", admin=True)
    admin, engineer = Browser(hub, "root"), Browser(hub, "ana")
    try:
        page = admin.get("/hub/usage?since=1d")
        assert page.ok
        assert all(f'<th scope="row">{name}</th>' in page.text for name in ("ana", "bo", "cem"))
        assert "unavailable (1)" in page.text
        assert "<svg" in page.text
        own = engineer.get("/hub/usage?by=user")
        assert "Your usage" in own.text
        assert '<th scope="row">ana</th>' in own.text
        assert '<th scope="row">bo</th>' not in own.text
        assert engineer.get("/hub/usage?user=bo").status_code == 403
        assert engineer.get("/hub/audit").status_code == 403

        sheet = admin.get("/hub/usage?since=1d&format=csv")
        assert sheet.headers["Content-Type"].startswith("text/csv")
        assert "attachment" in sheet.headers["Content-Disposition"]
        assert {row["user"] for row in csv.DictReader(sheet.text.splitlines())} == {"ana", "bo", "cem"}

        journal = admin.get("/hub/audit?user=ana")
        assert "lease.acquired" in journal.text
        assert "lease.acquired" not in admin.get("/hub/audit?user=ana&gpu=GPU-no").text
        evil = "%22%3E%3Cscript%3Ealert(1)%3C/script%3E"
        for address in ("/hub/audit?user=", "/hub/audit?since=", "/hub/usage?user=", "/hub/usage?by="):
            assert "<script>alert" not in admin.get(address + evil).text
    finally:
        admin.session.close()
        engineer.session.close()


def test_command_line_tells_the_same(used: HubProcess):
    hub = used
    told = json.loads(gpulab(hub, "usage", "--since", "1h", "--by", "user", "--json"))
    same = usage(hub, hub.token("root", admin=True), since="1h")["rows"]
    assert [row["key"] for row in told["rows"]] == [row["key"] for row in same]
    assert "gpu-1" in gpulab(hub, "usage", "--by", "profile")
    actions = [json.loads(line)["action"] for line in gpulab(hub, "audit", "--user", "cem", "--json").splitlines()]
    assert actions == ["request.refused"]
    assert gpulab(hub, "queue") == "Nobody waits.\n"
    bo = hub.token("bo")
    assert hub.post_lab("bo", bo, {"profile": "gpu-2"}).status_code == 409
    (place,) = json.loads(gpulab(hub, "queue", "--json"))["queue"]
    assert (place["position"], place["holder"], place["gpus"], place["state"]) == (1, "bo", 2, "waiting")
    assert "first in line" in gpulab(hub, "queue")
    assert hub.api("DELETE", "/users/bo/server", bo).status_code in (202, 204, 400)


def test_a_restart_with_another_lab_yaml_stands_in_the_journal(used: HubProcess):
    hub, before = used, used.config.limits.servers_per_user
    hub.terminate()
    hub.files.edit(limits__servers_per_user=before + 1)
    hub.start()
    hub.terminate()
    hub.start()
    events = hub.api("GET", "/gpus/audit", hub.token("root", admin=True)).json()["events"]
    (told,) = [event for event in events if event["action"] == "lab.configured"]
    assert (told["by"], told["detail"]) == ("lab.yaml", {"limits.servers_per_user": f"{before} → {before + 1}"})
