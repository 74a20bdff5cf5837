"""Labs that hold GPUs and use none, on a real hub with short times: told, warned, extended, stopped; work is left alone."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from spawner.engine import Engine
from spawner.ledger import Ledger
from spawner.told import Trouble, TroubleKind
from tests.support.hub import HubProcess, LabFiles, running_hub
from tests.support.kernel import run_cell

QUICK = {"mode": "on", "notice": "3s", "warning": "6s", "grace": "6s", "extend": "1h", "extensions": 1, "life_warning": "5s"}


def told(hub: HubProcess, token: str) -> dict[str, Any]:
    answer = hub.api("GET", "/gpus/notices", token)
    assert answer.ok, answer.text
    found: dict[str, Any] = answer.json()
    return found


def warning(hub: HubProcess, token: str) -> dict[str, Any] | None:
    return next((notice for notice in told(hub, token)["notices"] if notice["warning"]), None)


def container_of(hub: HubProcess, user: str) -> str:
    (found,) = [c for c in hub.containers() if c["Labels"]["io.gpulab.user"] == user]
    return str(found["Id"])


def inside(hub: HubProcess, user: str, command: str) -> None:
    """Start a command in the person's lab and leave it running."""
    made = hub.engine.client.exec_create(container_of(hub, user), ["sh", "-c", command])
    hub.engine.client.exec_start(made["Id"], detach=True)


def test_an_unused_lab_is_noticed_warned_extended_and_stopped_with_its_reason(lab_files: LabFiles, engine: Engine):
    lab_files.edit(reclaim=QUICK)
    with running_hub(lab_files, engine) as hub:
        ana, bo, cem = hub.token("ana"), hub.token("bo"), hub.token("cem")
        hub.start_lab("ana", ana, "gpu-1")
        hub.start_lab("bo", bo, "gpu-1")
        hub.start_lab("cem", cem, "cpu")
        run_cell(hub, "bo", bo, "import time; time.sleep(3600)")

        hub.wait_for(lambda: told(hub, ana)["notices"], 60, "the notice")
        seen = hub.wait_for(lambda: warning(hub, ana), 60, "the warning")
        assert "has not used its 1 GPU" in seen["text"]
        assert seen["stop_at"] is not None
        other = hub.api("POST", f"/gpus/leases/{seen['lease']}/extend", bo)
        assert other.status_code == 404, "nobody extends another's lab"
        extended = hub.api("POST", f"/gpus/leases/{seen['lease']}/extend", ana)
        assert extended.json()["extensions_left"] == 0, extended.text
        assert told(hub, ana)["notices"] == []
        again = hub.api("POST", f"/gpus/leases/{seen['lease']}/extend", ana)
        assert (again.status_code, "may be extended 1 time" in again.json()["message"]) == (403, True)
        assert told(hub, cem)["notices"] == [], "a lab without a GPU keeps nobody waiting"
        hub.stop_lab("ana", ana)

        hub.start_lab("ana", ana, "gpu-1")
        hub.wait_for(lambda: [lease.holder.user for lease in hub.leases()] == ["bo", "cem"], 90, "the GPU to be free")
        (ending,) = told(hub, ana)["endings"]
        assert ending["text"].startswith("The lab was stopped because it had not used its 1 GPU for")
        assert (told(hub, bo)["endings"], told(hub, bo)["notices"]) == ([], []), "a cell that only waits is at work"
        assert hub.api("POST", "/gpus/endings/dismiss", ana).status_code == 204
        assert told(hub, ana)["endings"] == []
        for name, token in (("bo", bo), ("cem", cem)):
            hub.stop_lab(name, token)
    log = hub.log.read_text()
    assert "warn ana: Your lab has not used its 1 GPU" in log
    line = next(line for line in log.splitlines() if "stop ana:" in line)
    assert "gpu 0%, gpu memory ?, kernels busy 0, cpu" in line, "a decision stands with its numbers"


def test_dry_run_decides_and_stops_nothing_and_computing_is_work(lab_files: LabFiles, engine: Engine):
    lab_files.edit(reclaim={**QUICK, "mode": "dry-run"})
    with running_hub(lab_files, engine) as hub:
        ana, bo = hub.token("ana"), hub.token("bo")
        hub.start_lab("bo", bo, "gpu-1")
        inside(hub, "bo", "while :; do :; done")
        hub.start_lab("ana", ana, "gpu-1")
        hub.wait_for(lambda: "would stop ana" in hub.log.read_text(), 90, "the decision in the log")
        line = next(line for line in hub.log.read_text().splitlines() if "would stop ana" in line)
        assert "gpu 0%, gpu memory ?, kernels busy 0, cpu" in line
        assert told(hub, ana)["notices"] == []
        assert (hub.server_model("ana", ana) or {})["ready"]
        said = hub.log.read_text()
        assert not any(f"would {step} bo" in said for step in ("notice", "warn", "stop"))
        for name, token in (("ana", ana), ("bo", bo)):
            hub.stop_lab(name, token)


def test_a_lab_is_warned_before_its_granted_life_ends_and_a_copy_is_work(lab_files: LabFiles, engine: Engine):
    lab_files.edit(reclaim={**QUICK, "life_warning": "30s"}, policy={"everyone": {"life": "60s"}})
    with running_hub(lab_files, engine) as hub:
        ana = hub.token("ana")
        hub.start_lab("ana", ana, "gpu-1")
        # A copy of a few MiB a second: next to no CPU, and no kernel.
        inside(hub, "ana", "while :; do head -c 2000000 /dev/zero >/workspace/models/copy; sleep 0.5; done")
        seen = hub.wait_for(lambda: warning(hub, ana), 90, "the warning")
        assert (seen["cause"], "granted ends soon" in seen["text"]) == ("life", True)
        hub.wait_for(lambda: not hub.leases(), 150, "the lab to end with its life")
        (ending,) = told(hub, ana)["endings"]
        assert "the life that it was granted had ended" in ending["text"]


def test_a_restart_keeps_the_gpus_also_while_others_wait_for_them(lab_files: LabFiles, engine: Engine):
    lab_files.edit(policy={"everyone": {"life": "2h"}})
    with running_hub(lab_files, engine) as hub:
        ana, bo, cem = hub.token("ana"), hub.token("bo"), hub.token("cem")
        hub.start_lab("ana", ana, "gpu-1")
        hub.start_lab("bo", bo, "gpu-1")
        before = next(lease for lease in hub.leases() if lease.holder.user == "ana")
        assert hub.post_lab("cem", cem, {"profile": "gpu-1"}).status_code == 409, "cem waits in line"
        refused = hub.api("POST", f"/gpus/leases/{before.id}/restart", ana)
        assert (refused.status_code, "This lab has its GPUs" in refused.json()["message"]) == (409, True), refused.text
        ledger = Ledger.open(hub.config.ledger_url)
        ledger.note_trouble(Trouble(before.id, TroubleKind.LOST, datetime.now(timezone.utc), "Your lab has lost its GPUs."))
        ledger.close()
        assert hub.api("POST", f"/gpus/leases/{before.id}/restart", bo).status_code == 404
        assert hub.api("POST", f"/gpus/leases/{before.id}/restart", ana).status_code == 202

        def again() -> bool:
            return any(
                lease.holder.user == "ana" and lease.id != before.id and lease.gpus == before.gpus and lease.bound
                for lease in hub.leases()
            )

        hub.wait_for(again, 90, "the lab to run again on the same GPU")
        hub.wait_ready("ana", ana)
        assert [ticket["state"] for ticket in hub.api("GET", "/gpus/tickets", cem).json()["tickets"]] == ["waiting"]
        assert told(hub, ana)["endings"] == []
        after = next(lease for lease in hub.leases() if lease.holder.user == "ana")
        assert after.ends == before.ends is not None, "its life goes on, and does not begin anew"
        assert hub.api("POST", f"/gpus/leases/{after.id}/restart", ana).status_code == 409
        hub.stop_lab("bo", bo)
        hub.wait_ready("cem", cem)
        for name, token in (("ana", ana), ("cem", cem)):
            hub.stop_lab(name, token)
