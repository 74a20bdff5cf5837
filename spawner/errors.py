"""The error tree: every failure a person may meet, as one sentence and a status.

    LabError
    ├── ConfigError            lab.yaml (or an environment override) is not valid; the hub does not start
    ├── RequestError           what was asked cannot be read or does not exist (400)
    ├── DeniedError            what was asked is readable but lab.yaml does not grant it (403)
    │   └── TooManyTries       too many wrong tokens from one address (429; in auth.slowdown)
    ├── UnavailableError       this host cannot give the profile, whoever asks (409)
    ├── MaintenanceError       an admin lets no lab start right now (503)
    ├── Queued                 the request waits in line now, as a ticket (409)
    ├── NoGpuFree              the request is fine, but the GPUs are held by others right now (409)
    ├── LabEnded               the lab was created, but ended before it answered (500)
    ├── MountError             a NAS folder is missing or does not answer (503)
    ├── InventoryError         the driver is there but does not answer sensibly (503)
    ├── LedgerError            the ledger cannot be read or written, or was asked for the impossible (503)
    ├── VaultError             the folder of secrets cannot be used, or others can read it
    ├── HubError               the hub did not do what the command line asked (in hub_api)
    ├── DatasetError           a data set cannot be had or written
    └── EngineError            the Docker engine
        ├── EngineUnknown      ... did not answer in time or not sensibly: nothing is known (503)
        └── EngineRefused      ... answered with a refusal, e.g. a missing image (500)

Owns the classes and their sentences' shape: what was asked, what the rule is, what to do. Never logs, never
formats HTML, never carries a traceback to a person.
"""

from __future__ import annotations


class LabError(Exception):
    """Base of all errors of the lab.

    Attributes:
        sentence: what happened, for the person at the browser or terminal; complete without the class name.
        what_to_do: the next step for that person; may be empty.
        status_code: HTTP status when the error leaves through the hub.
        reason: short label for metrics, `[a-z_]+`.
    """

    status_code = 500
    reason = "error"

    def __init__(self, sentence: str, what_to_do: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.what_to_do = what_to_do

    @property
    def message(self) -> str:
        """Sentence and advice in one line of text."""
        return f"{self.sentence} {self.what_to_do}".strip()

    def __str__(self) -> str:
        return self.message


class ConfigError(LabError):
    """lab.yaml is refused.

    Attributes:
        file: path of the file as the admin gave it.
        line: 1-based line of the offending key or value; 0 where no line applies.
    """

    reason = "config"

    def __init__(self, file: str, line: int, sentence: str, what_to_do: str = "") -> None:
        self.file = file
        self.line = line
        place = f"{file}:{line}: " if line else f"{file}: "
        super().__init__(place + sentence, what_to_do)


class RequestError(LabError):
    """The request cannot be read, or names something that does not exist."""

    status_code = 400
    reason = "bad_request"


class DeniedError(LabError):
    """lab.yaml does not grant what was asked."""

    status_code = 403
    reason = "denied"


class UnavailableError(LabError):
    """What was asked cannot be had here as things are, whoever asks."""

    status_code = 409
    reason = "unavailable"


class MaintenanceError(LabError):
    """An admin lets no lab start right now."""

    status_code = 503
    reason = "maintenance"


class Queued(LabError):
    """The request became a ticket, or is one already.

    Attributes:
        ticket: its id.
    """

    status_code = 409
    reason = "queued"

    def __init__(self, sentence: str, what_to_do: str, *, ticket: str) -> None:
        super().__init__(sentence, what_to_do)
        self.ticket = ticket


class NoGpuFree(LabError):
    """The GPUs are held by others right now.

    Attributes:
        wanted: number of GPUs asked for.
        free: number of suitable GPUs free at that moment.
        total: number of suitable GPUs of the lab.
    """

    status_code = 409
    reason = "no_gpu_free"

    def __init__(self, sentence: str, what_to_do: str, *, wanted: int, free: int, total: int) -> None:
        super().__init__(sentence, what_to_do)
        self.wanted = wanted
        self.free = free
        self.total = total


class LabEnded(LabError):
    """The lab was created, but ended before it answered."""

    reason = "lab_ended"


class MountError(LabError):
    """A folder that a lab would mount is missing, not a folder, or does not answer."""

    status_code = 503
    reason = "mount"


class InventoryError(LabError):
    """The NVIDIA driver is present but does not answer sensibly."""

    status_code = 503
    reason = "inventory"


class LedgerError(LabError):
    """The ledger cannot be read or written, or was asked for an impossible transition."""

    status_code = 503
    reason = "ledger"


class VaultError(LabError):
    """The folder of secrets cannot be used, or others can read it."""

    reason = "vault"


class DatasetError(LabError):
    """A data set cannot be had, or cannot be written."""

    reason = "dataset"


class EngineError(LabError):
    """The Docker engine failed a call."""

    reason = "engine"


class EngineUnknown(EngineError):
    """The engine did not answer in time or not sensibly: nothing is known about the container."""

    status_code = 503
    reason = "engine_unknown"


class EngineRefused(EngineError):
    """The engine answered, and said no."""

    reason = "engine_refused"
