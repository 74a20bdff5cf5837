import pytest

from tests.support.hub_log import unexpected_tracebacks

RECORD = """[I] fine
[E 2026 JupyterHub pages:357] {words}
    Traceback (most recent call last):
      File "x.py", line 1, in start
        raise refusal
    {end}

[W] 400 POST /hub/spawn/ana
"""
REFUSED = "jupyterhub.spawner.SpawnException: 400 SpawnException(reason=bad_request): There is no profile 'gpu-9'."


def test_a_refusal_that_jupyterhub_logs_is_expected():
    assert unexpected_tracebacks(RECORD.format(words="Failed to spawn single-user server with form", end=REFUSED)) == []


@pytest.mark.parametrize(
    ("words", "end"),
    [
        pytest.param("Failed to spawn single-user server with form", "KeyError: 'profile'", id="another-error-there"),
        pytest.param("lease 1 of ana could not be settled", REFUSED, id="the-same-error-elsewhere"),
        pytest.param("Uncaught exception POST /hub/api/users/ana/server", "ValueError", id="error-in-a-request"),
    ],
)
def test_any_other_is_found_with_what_it_was_about(words: str, end: str):
    (found,) = unexpected_tracebacks(RECORD.format(words=words, end=end))
    assert words in found
    assert found.endswith(end)


def test_a_second_one_is_not_hidden_by_an_expected_first():
    expected = RECORD.format(words="Failed to spawn single-user server with form", end=REFUSED)
    assert len(unexpected_tracebacks(expected + RECORD.format(words="settler", end="KeyError: 1"))) == 1
