"""The library in the lab image: its own tests, and what it says where data cannot be written."""

from __future__ import annotations

from pathlib import Path

import docker
import pytest

from tests.notebooks.conftest import Lab
from tests.notebooks.image import IN_IMAGE, volumes

TEXTURES = ("python", "-m", "defectlab", "data", "textures", "--out", "/out", "--quiet")


def test_its_unit_tests_pass_where_it_is_used(lab: Lab, tools: Path) -> None:
    code, said = lab(
        *("python", "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "--basetemp=/tmp/tests", "/tests"),
        volumes={
            **IN_IMAGE,
            str(tools): {"bind": "/tools", "mode": "ro"},
        },
        environment={"PYTHONPATH": "/tools", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    print(said)
    assert code == 0, said[-4000:]
    assert " skipped" not in said


def test_a_full_disk_is_one_sentence_and_leaves_nothing(lab: Lab) -> None:
    script = f"{' '.join(TEXTURES)}; echo code $?; ls -A /out | wc -l"
    _, said = lab("bash", "-c", script, tmpfs={"/out": "size=4m,uid=1000,gid=1000,mode=0755"})
    assert said.splitlines() == [
        "defectlab: The disk of /out is full, so textures was not written: free some space and run this again.",
        "code 1",
        "0",
    ]


@pytest.mark.parametrize("owner", [1000, 0], ids=["read-only", "somebody else's"])
def test_a_folder_that_cannot_be_written_is_one_sentence(lab: Lab, owner: int) -> None:
    options = {"tmpfs": {"/out": f"{'ro,' if owner else ''}uid={owner},gid={owner},mode=0755"}}
    code, said = lab(*TEXTURES, **options)
    assert (code, said.strip()) == (
        1,
        "defectlab: User 1000 cannot write to /out, so textures was not written: "
        "let that user write there, or name another folder.",
    )


def test_the_whole_default_data_set_is_written_whole_and_once(client: docker.DockerClient, lab: Lab) -> None:
    with volumes(client, "data") as (data,):
        mounts = {data: {"bind": "/workspace/data", "mode": "rw"}}
        write = ("python", "-m", "defectlab", "data", "textures", "--out", "/workspace/data")
        told = "/workspace/data/textures: 2880 images, CC0-1.0, difficulty default"
        assert lab(*write, volumes=mounts)[1].splitlines()[-1].startswith(f"Wrote {told}")
        assert lab(*write, volumes=mounts)[1].startswith(f"There already: {told}")
        check = "ls -A /workspace/data; cd /workspace/data/textures && sha256sum --check --quiet SHA256SUMS"
        code, said = lab("bash", "-c", check, volumes=mounts)
    assert (code, said.split()) == (0, ["textures"])
