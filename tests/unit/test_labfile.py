from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spawner import labfile
from spawner.errors import ConfigError
from spawner.schema import parse_size

SHIPPED = (Path(__file__).parents[2] / "lab.yaml").read_text()


def parse(text: str, **env: str) -> labfile.LabConfig:
    return labfile.parse(text.encode(), "lab.yaml", Path("/lab"), env)


def refusal(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return caught.value


def test_shipped_file_is_valid_and_has_the_published_case():
    config = parse(SHIPPED)
    assert list(config.profiles) == ["cpu", "gpu-1", "gpu-2", "reference", "predictive"]
    reference = config.profiles["reference"]
    assert (reference.gpus, reference.cpus) == (2, 8)
    assert (reference.shm, reference.memory) == (8 << 30, 32 << 30)
    assert len(config.gpus.simulated) == 2


def test_a_profile_may_name_an_image_of_its_own():
    config = parse(SHIPPED)
    named = {key: profile.image for key, profile in config.profiles.items() if profile.image}
    assert named == {"predictive": "gpulab/predictive:latest"}
    assert config.images == ("gpulab/pytorch:latest", "gpulab/predictive:latest")
    empty = SHIPPED.replace("    gpus: 0\n", "    gpus: 0\n    image: ''\n", 1)
    assert "profiles.cpu.image" in refusal(empty).message


def test_relative_paths_start_at_the_file():
    config = parse(SHIPPED)
    assert config.state == Path("/lab/.lab")
    assert config.mounts.datasets == Path("/lab/.lab/nas/datasets")


@pytest.mark.parametrize(
    ("found", "wrong", "words"),
    [
        pytest.param("gpus: 2", "gpu: 2", ["'gpu'", "profiles.gpu-2", "'gpus'", "shm"], id="unknown-key"),
        pytest.param("profiles:", "profile:", ["'profile'", "the top level", "'profiles'"], id="unknown-section"),
        pytest.param("port: 8000", 'port: "8000"', ["hub.port", "'8000'", "integer"], id="text-for-number"),
        pytest.param("shm: 1g", "shm: 1", ["profiles.cpu.shm", "512m"], id="size-without-unit"),
        pytest.param("cpus: 2", "cpus: true", ["profiles.cpu.cpus", "True"], id="bool-for-number"),
        pytest.param("cpus: 2", "cpus: 0", ["profiles.cpu.cpus", "greater than 0"], id="no-cpu"),
        pytest.param("source: auto", "source: magic", ["gpus.source", "'nvml'"], id="choice"),
        pytest.param("  gpu-1:", "  GPU_1:", ["'GPU_1'"], id="profile-name"),
        pytest.param("image: gpulab/pytorch:latest", "", ["'image'", "missing"], id="missing"),
        pytest.param("port: 8000", "port: [", ["not YAML"], id="syntax"),
        pytest.param("hub:\n", "hub:\n  port: 1\n", ["'port'", "twice"], id="twice"),
        pytest.param("000000000002", "000000000001", ["stands twice"], id="gpu-twice"),
    ],
)
def test_refusal_names_line_rule_and_neighbour(found: str, wrong: str, words: list[str]):
    assert found in SHIPPED
    error = refusal(SHIPPED.replace(found, wrong, 1))
    for word in words:
        assert word in error.message
    assert error.message.startswith("lab.yaml:")


def test_line_is_the_line_of_the_wrong_key():
    text = SHIPPED.replace("pids: 2048", "pid: 2048")
    line = next(n for n, row in enumerate(text.splitlines(), 1) if "pid: 2048" in row)
    assert refusal(text).line == line


@pytest.mark.parametrize("text", ["", "[]", "just text", "a: &x [*x]", "\x00", "- 1", "? {a: 1}\n: 2"])
def test_strange_files_are_refused_in_words(text: str):
    assert refusal(text).sentence


def test_missing_and_binary_files(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be read"):
        labfile.load(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        labfile.load(tmp_path / "binary.yaml")


def test_environment_overrides_address_and_port():
    config = parse(SHIPPED, GPULAB_ADDRESS="0.0.0.0", GPULAB_PORT="9000")
    assert (config.hub.address, config.hub.port) == ("0.0.0.0", 9000)


@pytest.mark.parametrize("port", ["x", "0", "65536", "-1", "9" * 5000, "８０"])
def test_wrong_port_override_is_refused(port: str):
    with pytest.raises(ConfigError, match="port"):
        parse(SHIPPED, GPULAB_PORT=port)


@given(st.integers(1, 4095), st.sampled_from("kmgtKMGT"))
def test_sizes_are_powers_of_1024(number: int, unit: str):
    assert parse_size(f"{number}{unit}") == number << (10 * ("kmgt".index(unit.lower()) + 1))


@given(st.text(max_size=12))
def test_any_text_is_a_size_or_a_value_error(text: str):
    try:
        assert parse_size(text) >= 0
    except ValueError as error:
        assert "512m" in str(error)
