"""Turns the lab's facts into what the pages show: gathers a snapshot, and fills the views.

Owns the way from leases, GPUs and profiles to page values. Never decides what may be had (the ledger does, later, in its own
transaction) and draws no HTML itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from spawner import profiles, sharing
from spawner.errors import LabError, NoGpuFree, Queued
from spawner.model import EngineFacts, Gpu, GpuRequest, Holder, LabConfig, Lease, LeaseState, Profile
from spawner.pages import board, forms, line_state, views
from spawner.pages.board_views import ProfileWait
from spawner.pages.viewer import Viewer
from spawner.records import GpuMark, Ticket
from spawner.runtime import Lab


@dataclass(frozen=True)
class Snapshot:
    """The lab at one moment.

    Attributes:
        facts: what the engine said; None when it did not answer.
        problem: one sentence for the person when a part did not answer.
        waits: profile → what a start with it would wait now.
        marks: what is out of circulation.
    """

    gpus: tuple[Gpu, ...]
    leases: tuple[Lease, ...]
    facts: EngineFacts | None
    problem: str
    now: datetime
    waits: Mapping[str, ProfileWait] = field(default_factory=dict)
    marks: tuple[GpuMark, ...] = ()


def gather(lab: Lab) -> Snapshot:
    """Ask inventory, ledger and engine; a part that fails leaves a sentence instead of an exception."""
    gpus: tuple[Gpu, ...] = ()
    leases: tuple[Lease, ...] = ()
    facts = None
    problem = ""
    waits: Mapping[str, ProfileWait] = {}
    marks: tuple[GpuMark, ...] = ()
    now = lab.clock()
    try:
        gpus, leases, marks = lab.units(), lab.ledger.active(), lab.ledger.marks()
        waits = {wait.key: wait for wait in board.look_at_line(lab, gpus, now).waits}
        facts = lab.engine.facts()
    except LabError as error:
        problem = error.message
    return Snapshot(gpus, leases, facts, problem, now, waits, marks)


def form(data: Snapshot, holder: Holder, config: LabConfig, selected: str = "") -> str:
    """The spawn form of a person, as HTML."""
    cards = tuple(_card(profile, data) for profile in config.profiles.values())
    summary = views.GpuSummary(_gpu_views(data.gpus, data.leases, _names(config, holder), data.marks), data.problem)
    return forms.profile_form(views.SpawnFormView(cards, summary, data.now, holder.user, selected))


def no_gpu_free(error: NoGpuFree, request: GpuRequest, data: Snapshot, holder: Holder, config: LabConfig) -> tuple[str, str]:
    """The answer when no GPU is free: as text for REST and as HTML for the browser.

    A request for more GPUs than the lab has is not helped by waiting; it keeps the error's own words.
    """
    if error.wanted > error.total:
        return error.message, error_html(error)
    view = views.NoGpuFreeView(
        wanted=error.wanted,
        gpus=_gpu_views(
            _suitable(data.gpus, request), data.leases, Viewer(holder.user, names=line_state.shows_holders(config)), data.marks
        ),
        now=data.now,
        viewer=holder.user,
        alternatives=tuple(_alternatives(data, config, error.wanted)),
    )
    return forms.no_gpu_free_text(view), forms.no_gpu_free_html(view)


def queued_html(error: Queued) -> str:
    """The answer to a request that waits in line now, as HTML."""
    return forms.queued_html(error.sentence)


def error_html(error: LabError) -> str:
    """Any other refusal, as HTML."""
    return forms.error_html(error.sentence, error.what_to_do)


def queued(lab: Lab, ticket: Ticket) -> Queued:
    """What the person reads when their request became a ticket."""
    place = line_state.standing(lab, ticket)
    what = views.count(ticket.request.gpus, "GPU")
    sentence = f"You asked for {what}, and wait in line now: number {place.number} of {place.length}, {place.expected_text}."
    return Queued(sentence, "The lab starts by itself when it is your turn; the page “Waiting line” shows it.", ticket=ticket.id)


def lab_view(lease: Lease, gpus: Iterable[Gpu], config: LabConfig) -> views.LabView:
    """A running lab on its owner's home page."""
    profile = config.profiles.get(lease.profile)
    leased = [gpu for gpu in gpus if gpu.uuid in lease.gpus]
    return views.LabView(profile.title if profile else lease.profile, _gpu_views(leased, (), Viewer()))


def lease_words(lease: Lease) -> str:
    """What the progress page says once the GPUs are leased."""
    if not lease.gpus:
        return "No GPU needed; preparing your lab"
    note = sharing.note(lease.gpus)
    if note:
        return f"{views.count(len(lease.gpus), 'seat')} of a shared GPU ({note}); preparing your lab"
    return f"{views.count(len(lease.gpus), 'GPU')} of your own; preparing your lab"


def _card(profile: Profile, data: Snapshot) -> views.ProfileCard:
    unavailable = data.problem
    if data.facts is not None:
        unavailable = profiles.unavailable_reason(profile, data.facts.capacity, data.gpus)
    return views.ProfileCard(
        key=profile.key,
        title=profile.title,
        description=profile.description,
        gpus=profile.gpus,
        cpus=profile.cpus,
        memory=profile.memory,
        shm=profile.shm,
        free=data.waits[profile.key].free if profile.key in data.waits else 0,
        gpu_models=profile.gpu_models,
        unavailable=unavailable,
        wait=data.waits[profile.key].wait if profile.key in data.waits and not unavailable else "",
        note=sharing.note_of_kind(profile.sharing),
    )


def _suitable(gpus: Iterable[Gpu], request: GpuRequest) -> tuple[Gpu, ...]:
    return tuple(gpu for gpu in gpus if sharing.suits(gpu, request))


def _alternatives(data: Snapshot, config: LabConfig, wanted: int) -> Iterable[views.Alternative]:
    cards = [(profile, _card(profile, data)) for profile in config.profiles.values()]
    able = [profile for profile, card in cards if profile.gpus < wanted and not card.unavailable and not card.shortage]
    for profile in sorted(able, key=lambda p: -p.gpus):
        yield views.Alternative(profile.key, profile.title, profile.gpus)


def _names(config: LabConfig, holder: Holder) -> Viewer:
    # The same rule as on the board.
    return Viewer(holder.user, names=config.board.names_for_everyone)


def _gpu_views(
    gpus: Iterable[Gpu], leases: Iterable[Lease], viewer: Viewer, marks: Iterable[GpuMark] = ()
) -> tuple[views.GpuView, ...]:
    held = {uuid: lease for lease in leases for uuid in lease.gpus}
    ordered = sorted(gpus, key=lambda gpu: (gpu.node, gpu.index, gpu.uuid))
    labels = board.labels(ordered)
    out = {row.id: row.out.words for row in board.gpu_rows(ordered, (), marks, {}) if row.out}
    return tuple(
        views.GpuView(
            label=labels[gpu.uuid],
            model=gpu.model,
            memory_mib=gpu.memory_mib,
            simulated=gpu.simulated,
            holder=_holder_view(held[gpu.uuid], viewer) if gpu.uuid in held else None,
            unit=gpu.uuid,
            note=sharing.NOT_ISOLATED if gpu.seats else "",
            out=out.get(gpu.uuid, ""),
        )
        for gpu in ordered
    )


def _holder_view(lease: Lease, viewer: Viewer) -> views.HolderView:
    who = lease.holder if viewer.may_see(lease.holder) else Holder("")
    return views.HolderView(who.user, who.server, lease.created, ending=lease.state is LeaseState.DRAINING)
