"""Starts the notebook server and stays beside it: whoever is killed for memory, the lab can say who it was.

Owns the server's start and end, the order in which a lab's processes are killed when its memory is full, and one line of JSON
in the container's log for whoever asks later why something is gone. Never ends the server, never writes a file, and needs
nothing beyond the standard library: it runs with every lab, so it is small.

The kernel kills by score. The server keeps the lowest; kernels and terminals are started with the highest (see `share` and
`etc`), and every other process gets it here within a second. Raising a score needs no right, lowering it would.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

MARK = "gpulab-memory: "
FIRST_TO_GO = 1000
LOOK_SECONDS = 1.0
# Where memory is short, what a process held must be known as of a moment ago.
CLOSE_LOOK_SECONDS = 0.2
CLOSE = 0.7
# A killed process is gone only when its memory is given back.
LOOKS_FOR_A_VICTIM = 25
# The server writes a line for each request; this keeps the last report near the end of the log for a day.
TELL_AGAIN_SECONDS = 120.0
TELL_FOR_SECONDS = 86400.0
MOST_DEATHS = 4
MOST_BYTES = 3500
NAMED = 12
PAGE = os.sysconf("SC_PAGE_SIZE")
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def read(path: str, most: int = 4096) -> str:
    """The beginning of a file of the kernel's; '' where it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            return (file.read(most) or b"").decode("utf-8", "replace")
    except OSError:
        return ""


class Group:
    """What the kernel counts about the lab's memory, under either version of control groups."""

    def __init__(self) -> None:
        own = next((line[3:] for line in read("/proc/self/cgroup").splitlines() if line.startswith("0::")), "")
        self.folder, self.names = "", ("", "", "", "")
        for folder, names in (
            ("/sys/fs/cgroup/memory", ("oom_control", "max_usage_in_bytes", "usage_in_bytes", "limit_in_bytes")),
            ("/sys/fs/cgroup", ("events", "peak", "current", "max")),
            (f"/sys/fs/cgroup{own}", ("events", "peak", "current", "max")),
        ):
            if os.path.exists(f"{folder}/memory.{names[0]}"):
                self.folder, self.names = folder, names
                break

    def _number(self, which: int) -> int | None:
        text = read(f"{self.folder}/memory.{self.names[which]}").strip()
        return int(text) if text.isdigit() else None

    def kills(self) -> int | None:
        """How many processes were killed for memory so far; None where the kernel does not say."""
        for line in read(f"{self.folder}/memory.{self.names[0]}").splitlines():
            name, _, number = line.partition(" ")
            if name == "oom_kill" and number.isdigit():
                return int(number)
        return None

    def peak(self) -> int | None:
        """The most that was ever used, in bytes."""
        return self._number(1)

    def close_to_the_limit(self) -> bool:
        """Whether a look must be close."""
        used, limit = self._number(2), self._number(3)
        return bool(used and limit and used > limit * CLOSE)


class Process:
    """A process of the lab, as of the last look."""

    def __init__(self, pid: int, parent: int, began: str) -> None:
        self.pid, self.parent, self.began = pid, parent, began
        self.rss = 0
        self.words: list[str] = []
        self.notebook = ""

    def learn(self) -> None:
        """Its command line and notebook: both change when it becomes another program."""
        words = read(f"/proc/{self.pid}/cmdline").split("\0")
        if words != self.words and any(words):
            self.words = words
            for entry in read(f"/proc/{self.pid}/environ", 65536).split("\0"):
                if entry.startswith("JPY_SESSION_NAME="):
                    self.notebook = entry.partition("=")[2]

    def what(self, server: int) -> str:
        """`kernel`, or `process` for what a kernel or terminal started."""
        is_kernel = any(word.endswith(".json") and "kernel-" in word for word in self.words)
        return "kernel" if is_kernel and self.parent == server else "process"

    def name(self) -> str:
        """Its program and what it runs; no further arguments, which may be anything."""
        words = [word for word in self.words if word]
        if not words:
            return ""
        name, rest = os.path.basename(words[0]), words[1:]
        if len(rest) > 1 and rest[0] == "-m":
            return f"{name} -m {rest[1]}"
        if "-c" in rest:
            return f"{name} -c"
        plain = next((word for word in rest if not word.startswith("-")), "") if name.startswith("python") else ""
        return f"{name} {os.path.basename(plain)}".strip()


class Watch:
    """Keeps an eye on the lab's processes."""

    def __init__(self, server: int) -> None:
        self.server = server
        self.spared = {1, os.getpid(), server}
        self.group = Group()
        self.counted = self.group.kills()
        self.processes: dict[tuple[int, str], Process] = {}
        self.looked_for = 0
        self.looks = 0
        self.deaths: list[dict[str, object]] = []
        self.told = self.died = 0.0

    def look(self) -> float:
        """One look; seconds until the next one."""
        alive = self._scan()
        kills = self.group.kills()
        if kills is not None and kills > (self.counted or 0):
            self.looked_for += kills - (self.counted or 0)
            self.counted, self.looks = kills, LOOKS_FOR_A_VICTIM
        if self.looked_for:
            self._find_victims(alive)
            self.looks -= 1
            if self.looked_for and self.looks <= 0:
                self._died("process", None)
                self.looked_for = 0
            if not self.looked_for:
                self.tell()
        now = time.monotonic()
        if self.deaths and now - self.told > TELL_AGAIN_SECONDS and now - self.died < TELL_FOR_SECONDS:
            self.tell()
        if not self.looked_for:
            self.processes = {key: self.processes[key] for key in alive}
        return CLOSE_LOOK_SECONDS if self.looked_for or self.group.close_to_the_limit() else LOOK_SECONDS

    def _scan(self) -> set[tuple[int, str]]:
        alive = set()
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) in self.spared:
                continue
            # The name in parentheses may hold anything, also spaces and parentheses.
            fields = read(f"/proc/{entry}/stat").rpartition(")")[2].split()
            if len(fields) < 22 or fields[0] in "ZX":
                continue
            key = (int(entry), fields[19])
            found = self.processes.get(key)
            if found is None:
                found = self.processes[key] = Process(int(entry), int(fields[1]), fields[19])
                _raise(int(entry))
            alive.add(key)
            # A process that is being killed gives back its memory piece by piece.
            found.rss = max(found.rss, int(fields[21]) * PAGE) if self.looked_for else int(fields[21]) * PAGE
        for key in sorted(alive, key=lambda key: -self.processes[key].rss)[:NAMED]:
            self.processes[key].learn()
        return alive

    def _find_victims(self, alive: set[tuple[int, str]]) -> None:
        gone = [process for key, process in self.processes.items() if key not in alive]
        for process in sorted(gone, key=lambda process: -process.rss)[: self.looked_for]:
            del self.processes[(process.pid, process.began)]
            self._died(process.what(self.server), process)
            self.looked_for -= 1

    def _died(self, what: str, process: Process | None) -> None:
        death: dict[str, object] = {"at": int(time.time()), "what": what}
        if process is not None:
            death |= {"name": process.name()[:60], "notebook": process.notebook[-60:], "rss": process.rss}
        self.deaths = [*self.deaths, death][-MOST_DEATHS:]
        self.died = time.monotonic()

    def ended(self, status: int) -> None:
        """The server has ended: tell it where the end was not its own wish."""
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if killed:
            kills = self.group.kills()
            self.looked_for += (kills or 0) - (self.counted or 0)
            self.counted = kills
            if self.looked_for > 0:
                self.looked_for -= 1
                self._died("server", None)
            self._find_victims(self._scan())
        if killed or self.deaths:
            self.tell(os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0)

    def tell(self, signum: int = 0) -> None:
        """One line into the log of the container, in one piece; the latest line holds all that is known."""
        import json  # not at the top: most labs never need it

        deaths = self.deaths
        while True:
            facts = {"v": 1, "kills": self.counted, "peak": self.group.peak(), "signal": signum, "deaths": deaths}
            line = f"{MARK}{json.dumps(facts)}\n".encode()
            if len(line) <= MOST_BYTES:
                break
            deaths = deaths[1:]
        os.write(2, line)
        self.told = time.monotonic()


def _raise(pid: int) -> None:
    path = f"/proc/{pid}/oom_score_adj"
    score = read(path).strip()
    if score.lstrip("-").isdigit() and int(score) < FIRST_TO_GO:
        with contextlib.suppress(OSError), open(path, "w") as file:
            file.write(str(FIRST_TO_GO))


def main(command: list[str]) -> int:
    """Run the command until it ends; its exit code, as a shell would say it."""
    signals = {signal.SIGCHLD, *FORWARDED}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        # In a group of its own, so that a signal to all of a group does not reach the server a second time from here.
        server = os.posix_spawnp(
            command[0], command, os.environ, setpgroup=0, setsigmask=[], setsigdef=[signal.SIGPIPE, signal.SIGXFSZ]
        )
    except OSError as error:
        print(f"gpulab: {command[0]} could not be started: {error.strerror}", file=sys.stderr)
        return 127
    with contextlib.suppress(OSError):
        os.tcsetpgrp(0, server)
    # Whatever goes wrong with the watch must not touch the lab: the server then runs on without it.
    watch, pause = None, LOOK_SECONDS
    with contextlib.suppress(Exception):
        watch = Watch(server)
    while True:
        got = signal.sigtimedwait(signals, pause)
        if got is not None and got.si_signo in FORWARDED:
            os.kill(server, got.si_signo)
            continue
        pid, status = os.waitpid(server, os.WNOHANG)
        with contextlib.suppress(Exception):
            if pid and watch:
                watch.ended(status)
            elif watch:
                pause = watch.look()
        if pid:
            return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
