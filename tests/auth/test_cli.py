"""The command line: what it prints, what it refuses, and that it never shows a traceback."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from spawner import cli, labfile
from spawner.auth import MAX_TOKEN_SECONDS
from spawner.commands import audit, gpus
from spawner.commands.token import parse_duration, parse_name
from spawner.errors import LabError, RequestError
from spawner.hub_api import HubApi
from spawner.ledger import Ledger
from spawner.model import Gpu, GpuRequest, Holder, Lease, LeaseState
from spawner.placement import packed
from spawner.records import Event, GpuMark, Grant, MarkKind
from tests.auth.conftest import AuthHub, Browser
from tests.support.hub import REPO, free_ports

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def gpulab(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `gpulab` in this process; exit code, standard output, standard error."""

    def run(*argv: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
        code = cli.main(argv, env or {})
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return run


@pytest.fixture
def lab_file(tmp_path: Path) -> Path:
    file = tmp_path / "lab.yaml"
    lab = yaml.safe_load((REPO / "lab.yaml").read_text())
    lab["gpus"]["source"] = "simulated"
    file.write_text(yaml.safe_dump(lab))
    return file


def pretend_hub(lab_file: Path, url: str, token: str = "t" * 32) -> None:
    """Leave the files that a hub leaves."""
    for folder, name, text in (("state", "hub.url", url), ("secrets", "cli_token", token)):
        path = lab_file.parent / ".lab" / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


# --- token ----


def test_token_prints_the_token_alone_and_it_signs_in(hub: AuthHub, gpulab: Run, browser: Browser, name: str) -> None:
    code, out, err = gpulab("--config", str(hub.folder / "lab.yaml"), "token", name)
    assert code == 0
    token = out.removesuffix("\n")
    assert out == f"{token}\n"
    assert token.isalnum()
    assert f"{name} is an engineer, new here." in err
    assert "30 days" in err
    assert token not in err
    browser.login(token)
    assert browser.signed_in


def test_token_takes_the_path_of_lab_yaml_from_the_environment(hub: AuthHub, gpulab: Run, name: str) -> None:
    code, out, _ = gpulab("token", name, env={"GPULAB_CONFIG": str(hub.folder / "lab.yaml")})
    assert code == 0
    assert hub.api("GET", "/user", out.strip()).json()["name"] == name


def test_token_makes_an_admin(hub: AuthHub, gpulab: Run, name: str) -> None:
    _, out, err = gpulab("--config", str(hub.folder / "lab.yaml"), "token", name, "--admin")
    assert "is an admin" in err
    assert hub.api("GET", "/user", out.strip()).json()["admin"] is True


def test_token_one_time(hub: AuthHub, gpulab: Run, new_browser: Callable[[], Browser], name: str) -> None:
    _, out, err = gpulab("--config", str(hub.folder / "lab.yaml"), "token", name, "--one-time")
    assert "one login" in err
    assert "1 day " in err
    first, second = new_browser(), new_browser()
    first.login(out.strip())
    second.login(out.strip())
    assert (first.signed_in, second.signed_in) == (True, False)


def test_token_expires_when_asked(hub: AuthHub, gpulab: Run, name: str) -> None:
    _, out, err = gpulab("--config", str(hub.folder / "lab.yaml"), "token", name, "--expires", "90m")
    assert "90 minutes" in err
    rows = hub.api("GET", f"/users/{name}/tokens", out.strip()).json()["api_tokens"]
    ends = datetime.fromisoformat(rows[0]["expires_at"].replace("Z", "+00:00"))
    assert abs((ends - datetime.now(timezone.utc)).total_seconds() - 5400) < 60


def test_token_revoke_ends_tokens_and_sessions_and_may_be_repeated(
    hub: AuthHub, gpulab: Run, browser: Browser, name: str
) -> None:
    config = ("--config", str(hub.folder / "lab.yaml"))
    _, token, _ = gpulab(*config, "token", name)
    browser.login(token.strip())
    code, out, err = gpulab(*config, "token", "--revoke", name)
    assert (code, out) == (0, "")
    assert f"Took 2 tokens and browser sessions of {name} away." in err
    assert not browser.signed_in
    assert gpulab(*config, "token", "--revoke", name)[0] == 0


@pytest.fixture
def journal(hub: AuthHub) -> Iterator[Path]:
    """The ledger of the hub's lab, made for one test."""
    file = Path(labfile.load(hub.folder / "lab.yaml").ledger_url.removeprefix("sqlite:///"))
    Ledger.open(f"sqlite:///{file}").close()
    yield file
    for left in file.parent.glob(file.name + "*"):
        left.unlink()


def test_who_made_and_revoked_tokens_stands_in_the_journal(hub: AuthHub, gpulab: Run, journal: Path, name: str) -> None:
    config = ("--config", str(hub.folder / "lab.yaml"))
    _, token, _ = gpulab(*config, "token", name, "--admin", "--expires", "12h")
    gpulab(*config, "token", "--revoke", name)
    _, out, _ = gpulab(*config, "audit", "--user", name, "--json")
    made, revoked = (json.loads(line) for line in out.splitlines())
    assert (made["action"], revoked["action"]) == ("token.made", "token.revoked")
    assert made["detail"] == {"admin": True, "new person": True, "ends in": "12 hours"}
    assert revoked["detail"] == {"tokens": 1}
    assert made["by"] == revoked["by"] == f"{pwd.getpwuid(os.getuid()).pw_name} on the host"
    assert token.strip() not in out


def test_a_journal_that_cannot_be_written_takes_no_token_back(hub: AuthHub, gpulab: Run, journal: Path, name: str) -> None:
    journal.write_bytes(b"this is no database" * 100)
    code, out, err = gpulab("--config", str(hub.folder / "lab.yaml"), "token", name)
    assert code == 0
    assert "The journal does not have this: The lease ledger cannot be used" in err
    assert hub.api("GET", "/user", out.strip()).json()["name"] == name


def test_token_revoke_of_a_stranger_says_so(hub: AuthHub, gpulab: Run, name: str) -> None:
    code, _, err = gpulab("--config", str(hub.folder / "lab.yaml"), "token", "--revoke", name)
    assert code == 1
    assert "There is no person of that name." in err


def test_names_are_made_lower_case(hub: AuthHub, gpulab: Run, name: str) -> None:
    _, out, _ = gpulab("--config", str(hub.folder / "lab.yaml"), "token", name.upper())
    assert hub.api("GET", "/user", out.strip()).json()["name"] == name


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param("", id="empty"),
        pytest.param("..", id="parent folder"),
        pytest.param("../etc", id="path"),
        pytest.param("a/b", id="slash"),
        pytest.param("a\\b", id="backslash"),
        pytest.param("a b", id="blank"),
        pytest.param("a\n", id="line end"),
        pytest.param("a\0b", id="NUL"),
        pytest.param("müller", id="umlaut"),
        pytest.param("🔑", id="emoji"),
        pytest.param("\u212a", id="Kelvin sign, a k in lower case"),
        pytest.param("ａｌｉｃｅ", id="wide letters"),
        pytest.param("\u202egpj.exe", id="right-to-left override"),
        pytest.param("a" * 65, id="too long"),
        pytest.param("a" * 1_000_000, id="1 MB"),
        pytest.param("a%2fb", id="percent"),
        pytest.param(".hidden", id="begins with a dot"),
        pytest.param("a.", id="ends with a dot"),
    ],
)
def test_bad_names_are_refused_with_the_rule_and_without_a_hub(gpulab: Run, lab_file: Path, bad: str) -> None:
    code, out, err = gpulab("--config", str(lab_file), "token", "--", bad)
    assert (code, out) == (1, "")
    assert "1 to 64 of the characters" in err
    assert len(err) < 400
    assert err.isascii()


@pytest.mark.parametrize("good", ["a", "alice", "alice.smith", "a-b_c", "alice@example.com", "a+b", "0", "a" * 64])
def test_good_names_pass(good: str) -> None:
    assert parse_name(good) == good


@given(st.text(max_size=80))
def test_parse_name_gives_a_plain_name_or_a_refusal(text: str) -> None:
    try:
        name = parse_name(text)
    except RequestError as error:
        assert error.what_to_do
    else:
        assert name.isascii()
        assert name == name.strip().lower()
        assert "/" not in name
        assert set(name) != {"."}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("45s", 45), ("90m", 5400), ("12h", 43_200), ("30d", 2_592_000), ("2w", 1_209_600), ("366d", MAX_TOKEN_SECONDS)],
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "30", "d", "-1d", "1.5d", "1 d", "0s", "367d", "999999999w", "1y", "١d", "30d ", "9" * 500 + "s"]
)
def test_bad_durations_are_refused_with_the_rule(gpulab: Run, lab_file: Path, text: str) -> None:
    code, out, err = gpulab("--config", str(lab_file), "token", "alice", f"--expires={text}")
    assert (code, out) == (1, "")
    assert "such as 12h or 30d" in err or "A token lives from 1s to 366d" in err


@pytest.mark.parametrize("more", [["--admin"], ["--one-time"], ["--expires", "1d"]])
def test_revoke_goes_alone(gpulab: Run, lab_file: Path, more: list[str]) -> None:
    code, _, err = gpulab("--config", str(lab_file), "token", "--revoke", "alice", *more)
    assert code == 1
    assert "--revoke only takes away" in err


# --- the hub does not do as asked ----


def test_no_hub_was_ever_started(gpulab: Run, lab_file: Path) -> None:
    code, _, err = gpulab("--config", str(lab_file), "token", "alice")
    assert code == 1
    assert "No hub has been started here yet" in err
    assert "make up" in err


def test_the_hub_is_down(gpulab: Run, lab_file: Path) -> None:
    url = f"http://127.0.0.1:{free_ports()}"
    pretend_hub(lab_file, url)
    code, _, err = gpulab("--config", str(lab_file), "token", "alice")
    assert (code, err) == (1, f"gpulab: The hub does not answer at {url}. Start it with: make up\n")


def test_another_hub_answers(hub: AuthHub, gpulab: Run, lab_file: Path) -> None:
    pretend_hub(lab_file, hub.url)
    code, _, err = gpulab("--config", str(lab_file), "token", "alice")
    assert code == 1
    assert "does not know this lab's command line" in err
    assert "make restart" in err


def test_something_else_answers(gpulab: Run, lab_file: Path, httpserver_url: str) -> None:
    pretend_hub(lab_file, httpserver_url)
    code, _, err = gpulab("--config", str(lab_file), "token", "alice")
    assert code == 1
    assert "is not this lab's hub" in err


@pytest.fixture
def httpserver_url(tmp_path: Path) -> Any:
    port = free_ports()
    served = tmp_path / "served"
    served.mkdir()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(served)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={"PYTHONUNBUFFERED": "1"})
    assert server.stdout is not None
    server.stdout.readline()
    yield f"http://127.0.0.1:{port}"
    server.kill()
    server.wait(timeout=10)
    server.stdout.close()


def test_a_hub_that_stalls_is_given_up(silent_port: int) -> None:
    hub = HubApi(f"http://127.0.0.1:{silent_port}", "t", seconds=0.2)
    with pytest.raises(LabError, match=r"did not answer within 0\.2 s"):
        hub.revoke("alice")
    assert hub.answers_as_ours() is False
    hub.close()


@pytest.fixture
def silent_port() -> Any:
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(5)
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("not a url", id="no URL"),
        pytest.param("http://[::1", id="half an address"),
        pytest.param("http://" + "a" * 300, id="a label too long"),
        pytest.param("http://127.0.0.1:99999", id="no port"),
        pytest.param("ftp://127.0.0.1", id="another scheme"),
        pytest.param("", id="empty"),
    ],
)
def test_a_damaged_address_file_is_a_sentence(gpulab: Run, lab_file: Path, url: str) -> None:
    pretend_hub(lab_file, url)
    code, _, err = gpulab("--config", str(lab_file), "token", "alice")
    assert code == 1
    assert err.count("\n") == 1
    assert "This should not have happened" not in err


def test_a_token_file_of_bytes_is_a_sentence(gpulab: Run, lab_file: Path) -> None:
    pretend_hub(lab_file, "http://127.0.0.1:1")
    (lab_file.parent / ".lab" / "secrets" / "cli_token").write_bytes(b"\xff\xfe\0")
    code, _, err = gpulab("--config", str(lab_file), "token", "alice")
    assert code == 1
    assert "cannot be read" in err


# --- gpus ----

GPU_1 = Gpu("GPU-00000000-0000-4000-8000-000000000001", "node", 0, "L4", 24 * 1024)
GPU_2 = Gpu("GPU-00000000-0000-4000-8000-000000000002", "node", 1, "Simulated", 0, simulated=True)
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


@contextmanager
def made_ledger(lab_file: Path) -> Iterator[Ledger]:
    ledger = Ledger.open(f"sqlite:///{lab_file.parent / '.lab' / 'state' / 'ledger.sqlite'}")
    try:
        yield ledger
    finally:
        ledger.close()


def lease(state: LeaseState, *uuids: str) -> Lease:
    return Lease("1" * 32, Holder("alice", "train"), "gpu-1", uuids, state, NOW)


@pytest.mark.parametrize(
    ("state", "word"),
    [(LeaseState.STARTING, "starting"), (LeaseState.BOUND, "leased"), (LeaseState.DRAINING, "draining")],
)
def test_gpus_says_who_holds_what(state: LeaseState, word: str) -> None:
    rows = gpus.table([GPU_2, GPU_1], [lease(state, GPU_1.uuid)], [])
    assert [(row.uuid, row.state, row.holder) for row in rows] == [(GPU_1.uuid, word, "alice/train"), (GPU_2.uuid, "free", "")]
    assert rows[0].since == "2026-01-02T03:04:05+00:00"


def test_gpus_shows_a_leased_gpu_that_is_gone() -> None:
    rows = gpus.table([GPU_2], [lease(LeaseState.BOUND, GPU_1.uuid)], [])
    assert [(row.uuid, row.state, row.holder) for row in rows] == [
        (GPU_2.uuid, "free", ""),
        (GPU_1.uuid, "missing", "alice/train"),
    ]


def test_gpus_shows_what_is_out_of_use_with_the_reason(gpulab: Run, lab_file: Path) -> None:
    first, second = (gpu["uuid"] for gpu in yaml.safe_load(lab_file.read_text())["gpus"]["simulated"])
    with made_ledger(lab_file) as ledger:
        ledger.mark(GpuMark(first, MarkKind.SICK, "Xid 79", "lab", NOW))
        ledger.mark(GpuMark(second, MarkKind.DRAINED, "new fan", "root", NOW))
    _, out, _ = gpulab("--config", str(lab_file), "gpus")
    assert "free" not in out
    assert "sick: Xid 79" in out
    assert "drained by an admin: new fan" in out


def test_gpus_lists_the_seats_of_a_shared_gpu_and_that_their_memory_is_not_isolated(gpulab: Run, lab_file: Path) -> None:
    lab = yaml.safe_load(lab_file.read_text())
    first, second = (gpu["uuid"] for gpu in lab["gpus"]["simulated"])
    lab["gpus"]["sharing"] = [{"gpus": [first], "seats": 2}]
    lab_file.write_text(yaml.safe_dump(lab))
    with made_ledger(lab_file) as ledger:
        ledger.acquire(
            GpuRequest("seat", 1), Holder("ana"), [], lease_id="3" * 32, now=NOW, admit=lambda request, *_: Grant(request),
            choose=lambda *_: (f"{first}#0",),
        )  # fmt: skip
    rows = json.loads(gpulab("--config", str(lab_file), "gpus", "--json")[1])["gpus"]
    assert [(row["uuid"], row["kind"], row["note"], row["state"], row["holder"]) for row in rows] == [
        (f"{first}#0", "shared", "memory is not isolated", "starting", "ana"),
        (f"{first}#1", "shared", "memory is not isolated", "free", ""),
        (second, "exclusive", "", "free", ""),
    ]
    assert gpulab("--config", str(lab_file), "gpus")[1].count("shared (memory is not isolated)") == 2


def test_gpus_marks_simulated_ones(gpulab: Run, lab_file: Path) -> None:
    code, out, _ = gpulab("--config", str(lab_file), "gpus")
    assert code == 0
    lines = out.splitlines()
    assert len(lines) == 3
    assert all("free (simulated)" in line for line in lines[1:])


def test_gpus_json(gpulab: Run, lab_file: Path) -> None:
    ledger = Ledger.open(f"sqlite:///{lab_file.parent / '.lab' / 'state' / 'ledger.sqlite'}")
    uuid = yaml.safe_load(lab_file.read_text())["gpus"]["simulated"][1]["uuid"]
    ledger.acquire(
        GpuRequest("gpu-1", 1),
        Holder("bob"),
        [],
        lease_id="2" * 32,
        now=NOW,
        admit=lambda request, *_: Grant(request),
        choose=lambda *_: (uuid,),
    )
    ledger.close()
    code, out, _ = gpulab("--config", str(lab_file), "gpus", "--json")
    assert code == 0
    rows = json.loads(out)["gpus"]
    assert [(row["state"], row["holder"], row["simulated"]) for row in rows] == [
        ("free", "", True),
        ("starting", "bob", True),
    ]
    assert {"uuid", "node", "model", "memory_mib", "state", "holder", "simulated"} <= set(rows[0])


def test_gpus_makes_no_ledger(gpulab: Run, lab_file: Path) -> None:
    assert gpulab("--config", str(lab_file), "gpus")[0] == 0
    assert not (lab_file.parent / ".lab").exists()


def test_gpus_of_a_broken_ledger_is_a_sentence(gpulab: Run, lab_file: Path) -> None:
    file = lab_file.parent / ".lab" / "state" / "ledger.sqlite"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"no database " * 1000)
    code, out, err = gpulab("--config", str(lab_file), "gpus")
    assert (code, out) == (1, "")
    assert "ledger" in err


# --- usage, audit, queue ----


@pytest.fixture
def ledger(lab_file: Path) -> Iterator[Ledger]:
    """The ledger of a lab in which ana held both GPUs for an hour, and bo waits for one that cem holds."""
    opened = Ledger.open(f"sqlite:///{lab_file.parent / '.lab' / 'state' / 'ledger.sqlite'}")
    uuids = tuple(gpu["uuid"] for gpu in yaml.safe_load(lab_file.read_text())["gpus"]["simulated"])
    units = [Gpu(uuid, "node", number, "Simulated", 24_000, simulated=True) for number, uuid in enumerate(uuids)]
    now = datetime.now(timezone.utc)

    def acquire(number: int, user: str, count: int, at: datetime) -> None:
        opened.acquire(
            GpuRequest(f"gpu-{count}", count), Holder(user), units, lease_id=f"{number:032x}", now=at,
            admit=lambda request, *_: Grant(request, groups=("vision",) if user == "ana" else ()), choose=packed,
        )  # fmt: skip

    acquire(1, "ana", 2, now - timedelta(hours=3))
    opened.release(f"{1:032x}", now - timedelta(hours=2), "done")
    acquire(2, "cem", 2, now - timedelta(hours=1))
    acquire(3, "bo", 1, now - timedelta(minutes=10))
    yield opened
    opened.close()


def test_usage_is_a_table_csv_or_json(gpulab: Run, lab_file: Path, ledger: Ledger) -> None:
    config = ("--config", str(lab_file), "usage")
    code, out, err = gpulab(*config)
    assert (code, err) == (0, "")
    lines = {line.split()[0]: line.split() for line in out.splitlines()[2:] if line}
    assert lines["ana"][1] == lines["cem"][1] == "2.0"
    assert (lines["total"][1], lines["bo"][-3:-1]) == ("4.0", ["1", "(10m)"])
    rows = json.loads(gpulab(*config, "--json")[1])["rows"]
    assert {row["key"]: round(row["gpu_hours"], 1) for row in rows} == {"ana": 2, "cem": 2, "bo": 0}
    assert gpulab(*config, "--csv", "--by", "group")[1].splitlines()[0].startswith("group,gpu_hours,idle_gpu_hours")
    assert "(no group)" in gpulab(*config, "--by", "group")[1]
    assert "ana" not in gpulab(*config, "--since", "90m")[1]
    assert "cem" not in gpulab(*config, "--until", "90m")[1]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("usage", "--since", "long ago"), "is not a time"),
        (("usage", "--until", "8d"), "ends before it begins"),
        (("audit", "--since", "\x1b[2J"), "is not a time"),
    ],
)
def test_a_period_that_cannot_be_read_is_a_sentence(gpulab: Run, lab_file: Path, words: tuple[str, ...], sentence: str) -> None:
    code, out, err = gpulab("--config", str(lab_file), *words)
    assert (code, out) == (1, "")
    assert sentence in err
    assert "\x1b" not in err


def test_audit_says_who_had_which_gpu_when(gpulab: Run, lab_file: Path, ledger: Ledger) -> None:
    code, out, _ = gpulab("--config", str(lab_file), "audit")
    assert code == 0
    what = [line.split()[3] for line in out.splitlines()[1:]]
    assert what == ["lease.acquired", "lease.released", "lease.acquired", "ticket.made"], "oldest first"
    entries = [json.loads(line) for line in gpulab("--config", str(lab_file), "audit", "--user", "ana", "--json")[1].splitlines()]
    assert {entry["user"] for entry in entries} == {"ana"}
    assert len(entries[0]["gpus"]) == 2
    held = entries[0]["gpus"][0]
    assert gpulab("--config", str(lab_file), "audit", "--gpu", held)[1].count("lease.acquired") == 2
    assert gpulab("--config", str(lab_file), "audit", "--gpu", "GPU-none")[1] == "Nothing happened in that time.\n"


def test_audit_shows_nothing_that_steers_a_terminal(gpulab: Run, lab_file: Path, ledger: Ledger) -> None:
    detail = {"why": "\x1b[2J\nlease.acquired of somebody else"}
    ledger.record(Event(datetime.now(timezone.utc), "root", "lease.draining", "ana", detail=detail))
    _, out, _ = gpulab("--config", str(lab_file), "audit")
    assert "\x1b" not in out
    assert r"\x1b[2J\nlease.acquired of somebody else" in out.splitlines()[-1]


def test_audit_prints_more_than_one_page(gpulab: Run, lab_file: Path, ledger: Ledger) -> None:
    for number in range(12):
        ledger.record(Event(datetime.now(timezone.utc), "root", "gpu.returned", subject=str(number)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "PAGE", 5)
        _, out, _ = gpulab("--config", str(lab_file), "audit", "--json")
    assert [json.loads(line)["number"] for line in out.splitlines()] == list(range(1, 17))


def test_queue_shows_the_line_and_why_it_stands_so(gpulab: Run, lab_file: Path, ledger: Ledger) -> None:
    code, out, _ = gpulab("--config", str(lab_file), "queue")
    assert code == 0
    assert "bo: It is first in line" in out
    (place,) = json.loads(gpulab("--config", str(lab_file), "queue", "--json")[1])["queue"]
    assert (place["position"], place["holder"], place["profile"], place["priority"]) == (1, "bo", "gpu-1", "normal")
    assert (place["expected"], 590 <= place["waited_seconds"] <= 700) == ("", True)


@pytest.mark.parametrize("command", ["usage", "audit", "queue"])
def test_looking_back_makes_no_ledger(gpulab: Run, lab_file: Path, command: str) -> None:
    assert gpulab("--config", str(lab_file), command)[0] == 0
    assert not (lab_file.parent / ".lab").exists()


# --- data get ----


def data_folder(lab_file: Path) -> Path:
    folder = lab_file.parent / ".lab" / "nas" / "datasets"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        pytest.param(
            ["imagenet"],
            "There is no data set 'imagenet'. Choose one of: textures, elpv, bearings, solar-thermal.",
            id="an unknown name",
        ),
        pytest.param(["../../etc"], "There is no data set", id="a path"),
        pytest.param(["elpv"], "--accept-licence CC-BY-NC-SA-4.0", id="no licence accepted"),
        pytest.param(["elpv", "--accept-licence", "MIT"], "--accept-licence CC-BY-NC-SA-4.0", id="another licence accepted"),
    ],
)
def test_data_get_refuses_with_what_to_do(gpulab: Run, lab_file: Path, words: list[str], sentence: str) -> None:
    folder = data_folder(lab_file)
    code, out, err = gpulab("--config", str(lab_file), "data", "get", *words)
    assert (code, out) == (1, "")
    assert sentence in err
    assert list(folder.iterdir()) == []


def test_data_get_without_a_data_folder_is_a_sentence(gpulab: Run, lab_file: Path) -> None:
    code, _, err = gpulab("--config", str(lab_file), "data", "get", "textures")
    assert code == 1
    assert "is missing" in err


def test_data_get_without_an_engine_is_a_sentence(gpulab: Run, lab_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    data_folder(lab_file)
    code, _, err = gpulab("--config", str(lab_file), "data", "get", "textures")
    assert code == 1
    assert "The Docker engine does not answer" in err


@pytest.mark.parametrize("name", ["elpv", "bearings"])
def test_data_list_shows_licences_to_be_accepted(gpulab: Run, lab_file: Path, name: str) -> None:
    code, out, _ = gpulab("--config", str(lab_file), "data", "list")
    assert code == 0
    (line,) = [line for line in out.splitlines() if line.startswith(name)]
    assert "no " in line
    assert "CC-BY-NC-SA-4.0 (to be accepted)" in line


def test_data_list_as_json_has_everything_a_program_needs(gpulab: Run, lab_file: Path) -> None:
    told = json.loads(gpulab("--config", str(lab_file), "data", "list", "--json")[1])["data_sets"]
    assert [one["name"] for one in told] == ["textures", "elpv", "bearings", "solar-thermal"]
    assert all(one["licence"] and one["purpose"] and not one["installed"] for one in told)


def installed(lab_file: Path) -> Path:
    folder = data_folder(lab_file) / "textures"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    (folder / "SHA256SUMS").write_text(f"{hashlib.sha256(b'a').hexdigest()}  a.txt\n")
    return folder


@pytest.mark.parametrize("words", [[], ["textures"], ["PATH"]])
def test_data_verify_names_the_bad_file(gpulab: Run, lab_file: Path, words: list[str]) -> None:
    folder = installed(lab_file)
    words = [str(folder) if word == "PATH" else word for word in words]
    code, out, err = gpulab("--config", str(lab_file), "data", "verify", *words)
    assert (code, out, err) == (0, f"{folder} is as it was installed.\n", "")
    (folder / "a.txt").write_text("b")
    code, out, err = gpulab("--config", str(lab_file), "data", "verify", *words)
    assert (code, out) == (1, f"{folder}/a.txt was changed\n")
    assert "amaged" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "No data set is installed"),
        (["elpv"], "Run: gpulab data get elpv"),
        (["no-such-folder"], "is neither a data set nor a folder"),
        (["a\0b"], "is neither a data set nor a folder"),
        (["--layout", "yolo"], "is neither a data set nor a folder"),
    ],
)
def test_data_verify_of_nothing_is_a_sentence(gpulab: Run, lab_file: Path, words: list[str], sentence: str) -> None:
    code, _, err = gpulab("--config", str(lab_file), "data", "verify", *words)
    assert code == 1
    assert sentence in err


# --- config check, and the command line as such ----


def test_config_check_of_the_shipped_file(gpulab: Run) -> None:
    code, out, _ = gpulab("--config", str(REPO / "lab.yaml"), "config", "check")
    assert code == 0
    assert "is right" in out


def test_config_check_names_file_line_and_neighbour(gpulab: Run, lab_file: Path) -> None:
    lab_file.write_text(lab_file.read_text().replace("profiles:", "profile:"))
    code, out, err = gpulab("--config", str(lab_file), "config", "check")
    assert (code, out) == (1, "")
    assert f"{lab_file}:" in err
    assert "Did you mean 'profiles'?" in err


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param([], id="nothing"),
        pytest.param(["frobnicate"], id="an unknown command"),
        pytest.param(["token"], id="no name"),
        pytest.param(["token", "a", "--adm"], id="an option cut short"),
        pytest.param(["gpus", "--yaml"], id="an unknown option"),
        pytest.param(["config"], id="half a command"),
        pytest.param(["data"], id="half of another"),
    ],
)
def test_words_that_are_not_understood_end_with_2_and_the_usage(gpulab: Run, argv: list[str]) -> None:
    code, out, err = gpulab(*argv)
    assert (code, out) == (2, "")
    assert "usage: gpulab" in err


@pytest.mark.parametrize("argv", [["--help"], ["token", "--help"], ["--version"], ["data", "get", "--help"]])
def test_help_ends_with_0(gpulab: Run, argv: list[str]) -> None:
    assert gpulab(*argv)[0] == 0


def test_a_missing_lab_yaml_is_a_sentence(gpulab: Run, tmp_path: Path) -> None:
    for command in (["token", "a"], ["gpus"], ["config", "check"]):
        code, _, err = gpulab("--config", str(tmp_path / "nope.yaml"), *command)
        assert code == 1
        assert "cannot be read" in err


def test_what_nobody_foresaw_is_a_sentence(gpulab: Run, monkeypatch: pytest.MonkeyPatch, lab_file: Path) -> None:
    monkeypatch.setattr(gpus, "table", lambda *_: 1 / 0)
    code, _, err = gpulab("--config", str(lab_file), "gpus")
    assert code == 1
    assert "This should not have happened (ZeroDivisionError: division by zero)" in err


def test_interrupt_ends_with_130(gpulab: Run, monkeypatch: pytest.MonkeyPatch, lab_file: Path) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gpus, "table", interrupted)
    assert gpulab("--config", str(lab_file), "gpus")[0] == 130


def test_as_a_process_into_a_closed_pipe_and_a_plain_terminal(lab_file: Path) -> None:
    program = [sys.executable, "-c", "from spawner.cli import entry_point; raise SystemExit(entry_point())"]
    env = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(REPO)}
    command = " ".join(f"'{word}'" for word in [*program, "--config", str(lab_file), "gpus"])
    shell = ["bash", "-c", f"set -o pipefail; {command} | true"]
    done = subprocess.run(shell, env={**env, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
