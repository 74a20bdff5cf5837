from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from defectlab import textures
from defectlab.__main__ import main


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = textures.Recipe
    monkeypatch.setattr(textures, "Recipe", lambda **words: recipe(per_tile=2, **words))


def test_textures_are_written_once_and_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "textures", "--out", str(tmp_path), "--quiet"]) == 0
    assert capsys.readouterr().out.startswith(f"Wrote {tmp_path / 'textures'}: 96 images, CC0-1.0, difficulty default")
    assert main(["data", "textures", "--out", str(tmp_path), "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("There already:")
    assert main(["data", "verify", str(tmp_path / "textures")]) == 0
    assert "is as it was written: Textures with drawn defects, 96 images, 48 defective" in capsys.readouterr().out


def test_damage_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "textures", "--out", str(tmp_path), "--name", "mine", "--difficulty", "hard", "--seed", "3", "--quiet"])
    victim = next((tmp_path / "mine" / "images").iterdir())
    victim.unlink()
    assert main(["data", "verify", str(tmp_path / "mine")]) == 1
    assert (
        capsys.readouterr().err
        == f"defectlab: {tmp_path / 'mine'} is damaged: images/{victim.name} is missing. Install it again.\n"
    )


@pytest.mark.parametrize(
    "words",
    ["", "data", "data textures", "data textures --out x --seed -1", "data textures --out x --difficulty no", "data verify"],
)
def test_what_is_not_understood_is_two(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_an_interruption_is_one_thirty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(textures, "write", interrupted)
    assert main(["data", "textures", "--out", str(tmp_path)]) == 130


def test_data_commands_need_no_pytorch(tmp_path: Path) -> None:
    code = "import sys; from defectlab.__main__ import main; main(['data', 'verify', '/none']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
