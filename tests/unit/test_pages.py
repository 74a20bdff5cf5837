"""What the spawn form and the refusals say, and that nothing a person typed becomes markup."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spawner.pages import forms
from spawner.pages.views import Alternative, GpuSummary, GpuView, HolderView, LabView, NoGpuFreeView, ProfileCard, SpawnFormView
from spawner.sharing import NOT_ISOLATED
from tests.unit.pages_html import BIG, CPU, FORM, FREE, GIB, HELD, NASTY, NO_GPU, NOW, ONE, TWO, Page, render, spawner


def test_form_counts_what_is_free_and_names_who_holds_the_rest():
    page = Page(forms.profile_form(FORM))
    assert "1 of 2 GPUs free" in page.text
    assert "held by ana (lab “train”) since" in page.text
    assert "simulated" not in page.text


def test_form_sends_one_profile_of_those_that_exist():
    radios = [a for a in Page(forms.profile_form(FORM)).all("input") if a["type"] == "radio"]
    assert {a["name"] for a in radios} == {"profile"}
    assert [a["value"] for a in radios] == ["cpu", "gpu-1", "gpu-2", "big"]
    assert [a["value"] for a in radios if "checked" in a] == ["cpu"]


def test_unavailable_profile_is_greyed_out_with_its_reason():
    page = Page(forms.profile_form(FORM))
    assert [a["value"] for a in page.all("input") if "disabled" in a] == ["big"]
    assert "This host has 2 CPUs; the profile asks for 8." in page.text_of(id="profile-4-more")


def test_profile_short_of_gpus_can_be_chosen_but_says_so():
    page = Page(forms.profile_form(FORM))
    assert "Needs 2 GPUs; 1 free right now." in page.text_of(id="profile-3-more")
    assert "free right now" not in page.text_of(id="profile-2-more")


@pytest.mark.parametrize(
    ("selected", "cards", "checked"),
    [
        ("gpu-2", (CPU, ONE, TWO), "gpu-2"),
        ("big", (CPU, BIG), "cpu"),
        ("gone", (CPU, ONE), "cpu"),
        ("", (TWO, ONE), "gpu-1"),
        ("", (TWO,), "gpu-2"),
        ("", (BIG,), ""),
        ("", (), ""),
    ],
)
def test_preselection_can_be_started(selected: str, cards: tuple[ProfileCard, ...], checked: str):
    assert replace(FORM, cards=cards, selected=selected).chosen == checked


def test_form_without_profiles_says_what_to_do():
    assert "Ask your administrator" in Page(forms.profile_form(replace(FORM, cards=()))).text


def test_form_says_that_the_gpus_cannot_be_read_instead_of_a_number():
    page = Page(forms.profile_form(replace(FORM, gpus=GpuSummary((FREE,), problem="The driver does not answer. Try again."))))
    assert "The driver does not answer." in page.text
    assert "1 of 1" not in page.text


def test_own_gpus_are_called_yours():
    assert "held by you (lab “train”)" in Page(forms.profile_form(replace(FORM, viewer="ana"))).text


def test_gpu_of_a_stopping_lab_is_about_to_be_free():
    gpu = replace(HELD, holder=HolderView("ana", ending=True))
    page = Page(forms.profile_form(replace(FORM, gpus=GpuSummary((gpu,)))))
    assert "held by ana (default lab), about to be free" in page.text


@pytest.mark.parametrize("where", ["form", "no gpu", "home"])
def test_simulated_gpus_are_marked_wherever_they_show(where: str):
    gpu = replace(HELD, simulated=True)
    html = {
        "form": forms.profile_form(replace(FORM, gpus=GpuSummary((gpu,)))),
        "no gpu": forms.no_gpu_free_html(replace(NO_GPU, gpus=(gpu,))),
        "home": render("home.html", default_server=spawner(view=LabView("1 GPU", (gpu,)))),
    }[where]
    assert "simulated" in Page(html).text


def test_no_gpu_answer_offers_what_can_start_now():
    offers = (Alternative("gpu-1", "1 GPU", 1), Alternative("cpu", "CPU", 0))
    page = Page(forms.no_gpu_free_html(replace(NO_GPU, alternatives=offers)))
    sent = [(a["name"], a["value"], a["form"], a["type"]) for a in page.all("button")]
    assert sent == [("profile", key, forms.DIRECT_START, "submit") for key in ("gpu-1", "cpu")]
    assert "Start with 1 GPU instead" in page.text
    assert "Start without a GPU" in page.text


def test_no_gpu_answer_without_an_offer_has_no_button():
    view = replace(NO_GPU, alternatives=())
    assert not Page(forms.no_gpu_free_html(view)).all("button")
    assert forms.no_gpu_free_text(view).endswith("Try again when one of these labs has stopped.")


@pytest.mark.parametrize("wanted", [1, 2])
@pytest.mark.parametrize("gpus", [(), (FREE,), (HELD,), (FREE, HELD), (HELD, replace(HELD, label="GPU 2"))])
def test_text_and_html_agree(wanted: int, gpus: tuple[GpuView, ...]):
    view = replace(NO_GPU, wanted=wanted, gpus=gpus, alternatives=())
    text = Page(forms.no_gpu_free_html(view)).text.removeprefix("Not enough GPUs are free ")
    assert text == forms.no_gpu_free_text(view)


def test_gpus_of_one_holder_share_a_sentence():
    text = forms.no_gpu_free_text(replace(NO_GPU, gpus=(HELD, replace(HELD, label="GPU 2"))))
    assert "You asked for 2 GPUs; 0 of 2 are free. GPU 1 and GPU 2 are held by ana (lab “train”) since" in text


def test_a_refusal_of_seats_says_that_their_memory_is_not_isolated():
    seat = replace(HELD, note=NOT_ISOLATED)
    view = NoGpuFreeView(1, (seat,), NOW, viewer="bo")
    for told in (forms.no_gpu_free_text(view), forms.no_gpu_free_html(view)):
        assert "seats of shared GPUs: memory is not isolated." in told


def test_time_of_another_day_has_its_date():
    yesterday = HolderView("ana", since=NOW - timedelta(days=1))
    assert re.fullmatch(r"\d+ \w{3}, \d\d:\d\d", yesterday.since_text(NOW))
    assert re.fullmatch(r"\d\d:\d\d", HolderView("ana", since=NOW).since_text(NOW))


def test_refusal_says_what_to_do():
    assert Page(forms.error_html("The folder is missing.", "Tell your administrator.")).text == (
        "The folder is missing. Tell your administrator."
    )


def nasty_form(text: str) -> str:
    gpu = GpuView(text, text, 1024, True, HolderView(text, text, NOW, True))
    card = ProfileCard(text, text, text, 1, 1, GIB, GIB, gpu_models=(text,))
    return forms.profile_form(
        SpawnFormView((card, replace(card, unavailable=text)), GpuSummary((gpu,)), NOW, viewer="x", selected=text)
    )


def nasty_refusal(text: str) -> str:
    gpu = GpuView(text, text, 1024, True, HolderView(text, text, NOW))
    return forms.no_gpu_free_html(NoGpuFreeView(1, (gpu,), NOW, "x", (Alternative(text, text, 0),)))


DRAWN = {
    "form": nasty_form,
    "refusal": nasty_refusal,
    "error": lambda text: forms.error_html(text, text),
    "problem": lambda text: forms.profile_form(replace(FORM, gpus=GpuSummary((), text))),
}


@pytest.mark.parametrize("piece", DRAWN)
@given(
    text=st.one_of(
        st.just(NASTY), st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"]), min_size=1, max_size=40)
    )
)
def test_names_and_titles_stay_text(piece: str, text: str):
    harmless, page = Page(DRAWN[piece]("x")), Page(DRAWN[piece](text))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in harmless.elements]
    assert [set(attrs) for _, attrs in page.elements] == [set(attrs) for _, attrs in harmless.elements]


@pytest.mark.parametrize("html", [forms.profile_form(FORM), forms.no_gpu_free_html(NO_GPU), forms.error_html("a", "b")])
def test_pieces_are_labelled(html: str):
    Page(html).assert_labelled()
