"""`gpg-vl ask`: completions of one prompt, scored on request."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpg_vl import cli
from tests.support.builders import png
from tests.support.messages import lines_naming
from tests.support.videos import Clip, mp4


def test_ask(tmp_path: Path, model_folders: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "picture.png").write_bytes(png(84, 84))
    words = ["ask", model_folders["qwen2_vl"], "--image", tmp_path / "picture.png", "--question", "How many shapes?"]
    limits = ["--rollout.max_new_tokens", 5, "--model.dtype", "float32"]
    scored = ["--task", "counting", "--answer", "4", "--n", 3]
    assert cli.main([str(word) for word in [*words, *limits, *scored]]) == 0
    out = capfd.readouterr().out
    assert out.count("   answer: None   reward 0.000 (correct 0.000, format 0.000) unparsable") == 3
    assert cli.main([str(word) for word in [*words, *limits]]) == 0
    out = capfd.readouterr().out
    assert "reward" not in out
    assert out.startswith("prompt (")
    (tmp_path / "film.mp4").write_bytes(mp4(Clip(56, 56, 6)))
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    shown = ["--video", tmp_path / "film.mp4", "--data.max_frames", 4]
    assert cli.main([str(word) for word in [*words, *limits, *shown]]) == 0
    asked = capfd.readouterr().out
    assert asked.count("<|image_pad|>") == 1 and asked.count("<|video_pad|>") == 1
    num_tokens = [int(text.split("(")[1].split()[0]) for text in (out, asked)]
    assert num_tokens[1] - num_tokens[0] == 2 * (2 * 2) + 2, "two pairs of frames between two marks"
    for extra, named in (
        (["--answer", "4"], ["--answer", "--task"]),
        (["--task", "counting", "--answer", "many"], ["answer", "many"]),
        (["--n", "0"], ["--n", 1]),
        (["--temperature", "-1"], ["--temperature"]),
        (["--task", "grounding"], ["image"]),
        (["--image", "gone.png"], ["--image", "gone.png"]),
        (["--video", "gone.mp4"], ["--video", "gone.mp4"]),
        (["--video", str(tmp_path / "broken.mp4")], ["broken.mp4", "MP4"]),
    ):
        asked = ["ask", words[1], *words[4:]] if "grounding" in extra else words
        assert cli.main([str(word) for word in [*asked, *limits, *extra]]) == 2
        assert lines_naming(capfd.readouterr().err, *named)
