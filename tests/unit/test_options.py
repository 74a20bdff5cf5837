import pytest
from hypothesis import given
from hypothesis import strategies as st

from spawner import options
from spawner.errors import RequestError
from tests.unit.values import make_profile

PROFILES = {
    "cpu": make_profile(key="cpu", gpus=0),
    "gpu-1": make_profile(),
    "gpu-2": make_profile(key="gpu-2", gpus=2, gpu_models=("L4",)),
}


def test_a_profile_gives_its_gpus_and_models():
    request = options.parse({"profile": "gpu-2"}, PROFILES)
    assert (request.profile, request.gpus, request.gpu_models) == ("gpu-2", 2, ("L4",))


def test_fewer_gpus_than_the_profile_may_be_asked():
    assert options.parse({"profile": "gpu-2", "gpus": 1}, PROFILES).gpus == 1


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        pytest.param({"profile": "gpu-9"}, ["'gpu-9'", "cpu, gpu-1, gpu-2"], id="unknown"),
        pytest.param({"profile": "GPU-1"}, ["Did you mean 'gpu-1'"], id="nearest"),
        pytest.param({}, ["No profile"], id="none"),
        pytest.param({"profile": ["cpu"]}, ["a list"], id="list"),
        pytest.param({"profile": 1}, ["a number"], id="number"),
        pytest.param({"profile": "gpu-1", "gpus": "1"}, ["gpus is text"], id="text-gpus"),
        pytest.param({"profile": "gpu-1", "gpus": True}, ["true or false"], id="bool-gpus"),
        pytest.param({"profile": "gpu-1", "gpus": 1.5}, ["not a whole number"], id="half"),
        pytest.param({"profile": "gpu-2", "gpus": 3}, ["You asked for 3 GPUs", "gives 1 to 2"], id="too-many"),
        pytest.param({"profile": "gpu-2", "gpus": 10**400}, ["far too many"], id="huge"),
        pytest.param({"profile": "gpu-2", "gpus": 0}, ["gives 1 to 2"], id="zero-of-gpu-profile"),
        pytest.param({"profile": "cpu", "gpus": 1}, ["has no GPU"], id="gpu-of-cpu-profile"),
        pytest.param({"profile": "cpu", "image": "evil"}, ["Unknown option 'image'"], id="image"),
        pytest.param({"profile": "cpu", "profil": 1}, ["Did you mean 'profile'"], id="unknown-nearest"),
        pytest.param([], ["user_options is a list"], id="not-a-mapping"),
        pytest.param({"profile": "x" * 10_000_000}, ["…"], id="ten-megabytes"),
    ],
)
def test_refusals_say_what_was_asked_and_what_is_allowed(raw: object, words: list[str]):
    with pytest.raises(RequestError) as caught:
        options.parse(raw, PROFILES)
    for word in words:
        assert word in caught.value.message
    assert len(caught.value.message) < 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@given(JSON | st.fixed_dictionaries({"profile": JSON}, optional={"gpus": JSON, "image": JSON}))
def test_anything_becomes_a_granted_request_or_a_refusal(raw: object):
    try:
        request = options.parse(raw, PROFILES)
    except RequestError as error:
        assert error.sentence
        assert error.sentence.isprintable()
    else:
        assert request.gpus <= PROFILES[request.profile].gpus


def test_form_values_are_unpacked():
    assert options.from_form({"profile": ["gpu-2"], "gpus": ["1"], "_xsrf": ["x"]}) == {"profile": "gpu-2", "gpus": 1}
    assert options.from_form({"profile": []}) == {}
