"""`GpuSpawner`: JupyterHub's and DockerSpawner's hooks, wired to the parts of the lab.

Owns the order of one start and one stop, and the translation of the lab's errors into JupyterHub's. Never decides who may
have what, which GPUs, or what is free: those are `options`, `policy`, `placement`, `ledger` and `settlement`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from dockerspawner import DockerSpawner
from traitlets import Unicode, default

from spawner import answering, container, options, policy, present, probe, profiles, refusals, volumes
from spawner.endings import tell
from spawner.errors import EngineError, LabEnded, LabError, Queued, RequestError
from spawner.lanes import Lane, Lanes
from spawner.model import ContainerSpec, GpuRequest, Holder, Presence
from spawner.pages.views import LabView
from spawner.records import Ticket
from spawner.runtime import Lab, open_lab

T = TypeVar("T")


class GpuSpawner(DockerSpawner):
    """A DockerSpawner whose containers get exactly the GPUs that the ledger leased to them.

    Configured by lab.yaml alone. DockerSpawner's traits for images, limits, volumes and devices are not consulted: the
    container is computed afresh on every start by `spawner.container.render`.
    """

    lab_file = Unicode(help="Path of lab.yaml.").tag(config=True)
    lease_id = Unicode(help="The current lease; kept in the hub's database so that it survives a restart.")

    stopped_by = "lab"  # for the journal: who asked for the stop that is under way

    # One lane per container name: calls for one lab keep their order even after a cancelled start, whose thread runs on,
    # while labs of different people do not wait for each other as on DockerSpawner's single thread.
    _lanes = Lanes()

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._asked: GpuRequest | LabError | None = None
        self._spec: ContainerSpec | None = None
        self._events: list[dict[str, Any]] = []
        self._news = asyncio.Event()
        self._view: LabView | None = None
        self.waits = False  # the last start became a ticket; the spawn page then shows the line

    # --- the parts --------------------------------------------------------

    @property
    def lab(self) -> Lab:
        """The opened lab."""
        return open_lab(self.lab_file)

    @property
    def holder(self) -> Holder:
        """Who this spawner starts labs for."""
        return Holder(self.user.name, self.name or "")

    @property
    def client(self) -> Any:
        """The engine's client; used by DockerSpawner's own verbs."""
        return self.lab.engine.client

    @property
    def executor(self) -> Lane:
        """The lane of this lab's container; used by DockerSpawner's own verbs."""
        return Lane(self._lanes, self.object_name)

    async def _in_lane(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        return await asyncio.wrap_future(self.executor.submit(function, *args, **kwargs))

    @default("object_name")
    def _object_name_default(self) -> str:
        return volumes.container_name(self.lab.config.name, self.holder)

    def template_namespace(self) -> dict[str, str]:
        """DockerSpawner's templates are not used; an empty namespace keeps a stray one verbatim."""
        return {}

    @property
    def lab_view(self) -> LabView | None:
        """The running lab as the home page shows it; None when there is none or it is not known yet."""
        return self._view

    def _look(self) -> None:
        # In the lane and not in the page: ledger and driver may take seconds, and a page must not hold up the hub.
        lab = self.lab
        try:
            for lease in lab.ledger.active_of(self.holder):
                if lease.id == self.lease_id:
                    self._view = present.lab_view(lease, lab.inventory.gpus(), lab.config)
        except LabError as error:
            self.log.warning("%s cannot be shown: %s", self._log_name, error)

    # --- what was asked ---------------------------------------------------

    async def get_options_form(self) -> str:
        """The profile form; numbers on it are advice, the ledger decides at the start."""
        data = await self._in_lane(present.gather, self.lab)
        return present.form(data, self.holder, self.lab.config, str((self.orm_spawner.user_options or {}).get("profile", "")))

    @default("options_from_form")
    def _options_from_form_default(self) -> Callable[..., dict[str, Any]]:
        return options.from_form

    def options_from_query(self, query_data: object) -> dict[str, Any]:
        """Refuse to start from an address alone: a link in a mail could otherwise take a GPU in its reader's name.

        Raises:
            SpawnException: always; the form is shown below it.
        """
        error = RequestError("A link cannot start a lab.", "Choose a profile below.")
        raise refusals.as_exception(error, error.message, present.error_html(error))

    @default("apply_user_options")
    def _apply_user_options_default(self) -> Callable[..., None]:
        # The single place where raw options become a value. A refusal is kept and raised by `start`, because JupyterHub
        # logs a traceback for whatever this hook raises.
        def apply(spawner: GpuSpawner, user_options: object) -> None:
            try:
                spawner._asked = options.parse(user_options, spawner.lab.config.profiles)
            except LabError as error:
                spawner._asked = error
                # A refused body of any size must not become the default of the next start.
                spawner.orm_spawner.user_options = {}
                spawner.user_options = {}

        return apply

    # --- start ------------------------------------------------------------

    async def start(self) -> str:
        """Lease GPUs, create and start the container.

        Returns:
            URL of the lab's server, as the hub reaches it.

        Raises:
            SpawnException: with the sentence for the person; the lease is settled by `run_post_stop_hook`.
        """
        self._events.clear()
        self.waits = False
        limits = self.lab.config.limits
        try:
            try:
                url = await asyncio.wait_for(self._start(), limits.start_seconds)
            except asyncio.TimeoutError:
                raise LabEnded(f"The lab was not created within {limits.start_seconds} s.", answering.AGAIN) from None
            await answering.wait(url, f"{url}{self.server.base_url}api", limits.http_seconds, self.poll)
            await self._in_lane(self.lab.ledger.bind, self.lease_id, self.lab.clock())
            return url
        except LabError as error:
            self.log.warning("%s not started: %s", self._log_name, error)
            self.waits = isinstance(error, Queued)
            told = (error, self._asked, self.holder, self.lab, self._groups())
            raise await self._in_lane(refusals.refusal, *told) from None

    async def _start(self) -> str:
        lab = self.lab
        if isinstance(self._asked, LabError):
            raise self._asked
        request = self._asked or options.parse(None, lab.config.profiles)
        profile = lab.config.profiles[request.profile]
        self._say(5, "Checking folders and GPUs")
        await self._in_lane(probe.require_space, lab.config.state)
        folders = (lab.config.mounts.datasets, lab.config.mounts.models)
        await self._in_lane(probe.require_folders, folders, lab.config.mounts.probe_seconds)
        facts = await self._in_lane(lab.engine.facts)
        gpus = await self._in_lane(lab.leasable_gpus)
        profiles.require_available(profile, facts.capacity, gpus)
        await self._in_lane(lab.settle_holder, self.holder)
        lease = await self._in_lane(
            lab.ledger.acquire,
            request,
            self.holder,
            gpus,
            lease_id=lab.new_id(),
            now=lab.clock(),
            admit=policy.admit(lab.config, self._groups()),
            choose=lab.place,
        )
        if isinstance(lease, Ticket):
            raise await self._in_lane(present.queued, lab, lease)
        self.lease_id = lease.id
        self.log.info("%s: lease %s of %s", self._log_name, lease.id, ", ".join(lease.gpus) or "no GPU")
        self._say(20, present.lease_words(lease))
        try:
            units = await self._in_lane(lab.units)
            self._spec = container.render(
                lab.config, profile, lease, units, facts, self.get_env(), data_writable=self._may_write_data()
            )
        except LabError:
            # Nothing is on its way to the engine: the GPUs need not wait for an answer.
            await self._in_lane(lab.ledger.answered, lease.id, "")
            raise
        created = await self.create_object()
        self.object_id = created["Id"]
        self._say(50, "Starting your lab")
        await self._in_lane(lab.engine.start, self.object_id)
        ip = await self._in_lane(lab.engine.address, self.object_id, lab.config.network.name)
        await self._in_lane(self._look)
        self._say(70, "Waiting for JupyterLab to answer")
        return f"http://{ip}:{self.port}"

    async def create_object(self) -> dict[str, str]:
        """Create the container of the rendered spec."""
        return {"Id": await self._in_lane(self._create, self._spec)}

    def _create(self, spec: ContainerSpec) -> str:
        # In one step of the lane, so that a cancelled start cannot come between the answer and its note in the ledger.
        lab, lease_id = self.lab, spec.labels[container.LABEL_LEASE]
        try:
            made = lab.engine.create(spec, None, self.port)
        except EngineError as error:
            if error.reason == "engine_refused":
                lab.ledger.answered(lease_id, "")
            raise
        lab.ledger.answered(lease_id, made)
        return made

    def _may_write_data(self) -> bool:
        mounts = self.lab.config.mounts
        return policy.may_write_datasets(self.user.name, self._groups(), mounts.dataset_writers, mounts.dataset_writer_groups)

    def _groups(self) -> frozenset[str]:
        return frozenset(group.name for group in self.user.groups)

    # --- progress ---------------------------------------------------------

    def _say(self, percent: int, message: str) -> None:
        self._events.append({"progress": percent, "message": message})
        self._news.set()

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what `start` says, as it says it; ends when the hub stops asking."""
        shown = 0
        while True:
            while shown < len(self._events):
                yield self._events[shown]
                shown += 1
            self._news.clear()
            await self._news.wait()

    # --- poll and stop ----------------------------------------------------

    async def poll(self) -> str | int | None:
        """None while the lab runs or cannot be seen; otherwise why it is not running.

        *Unknown* counts as running: an engine that stalls must not end anyone's work.
        """
        if not self.lease_id:
            return 0
        look = self.lab.glance.presence
        if self._check_pending and await self._in_lane(self.lab.is_ending, self.lease_id):
            # The first look of a hub that came back: a stop that was under way when it went is finished, not waited for.
            await self.stop()
            look = self.lab.engine.presence
        presence = await self._in_lane(look, self.lease_id)
        if presence in (Presence.RUNNING, Presence.UNKNOWN):
            if self._view is None:
                await self._in_lane(self._look)
            return None
        if presence is Presence.ABSENT:
            return 0
        return await self._in_lane(tell, self.lab, self.lease_id)

    async def stop(self, now: bool = False) -> None:
        """Ask the lab to end and remove its container; the GPUs are given back by settlement."""
        seconds = 1 if now else self.lab.config.limits.stop_seconds
        # Two steps that do not wait for each other's success: a ledger in trouble must not keep a lab running that its owner
        # ended, and an engine in trouble must not keep the lease from draining. Settlement finishes what is left.
        for step in (
            lambda: self.lab.ledger.drain(self.lease_id, self.lab.clock(), actor=self.stopped_by),
            lambda: self.lab.engine.remove(self.lease_id, seconds),
        ):
            try:
                await self._in_lane(step)
            except LabError as error:
                self.log.warning("%s not stopped yet: %s", self._log_name, error)

    async def get_url(self) -> str:
        """URL of a lab that outlived a restart of the hub, once it answers.

        JupyterHub asks this of survivors before it tries them, and would end one that does not answer in time. A network or
        a lab that stalls must not end work: this waits for as long as the engine does not say that the lab is gone.
        """
        url = str(self.server.url)
        await answering.survivor(url, self.poll, self._log_name)
        return url

    async def run_post_stop_hook(self) -> None:
        """Settle every lease of this holder; JupyterHub runs this on every way out, also where it skips `stop`."""
        try:
            await self._in_lane(self.lab.settle_holder, self.holder, self.stopped_by)
        except LabError as error:
            self.log.warning("%s not settled yet: %s", self._log_name, error)
        outcome = super().run_post_stop_hook()
        if outcome is not None:
            await outcome

    # --- state ------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """State for the hub's database: DockerSpawner's, and the lease."""
        state: dict[str, Any] = super().get_state()
        if self.lease_id:
            state["lease_id"] = self.lease_id
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up state after a hub restart."""
        super().load_state(state)
        self.lease_id = state.get("lease_id", "")

    def clear_state(self) -> None:
        """Forget the lab; the ledger does not."""
        super().clear_state()
        self._view = None
        self.stopped_by = "lab"
        self.lease_id = ""
        self.object_id = ""
