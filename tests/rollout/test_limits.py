"""Rows that the engine ``vllm`` cannot take: refused before anything is sampled, with the row and the way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpg_vl import cli
from gpg_vl.config import RolloutConfig, VllmConfig
from gpg_vl.data.sources import write_jsonl
from gpg_vl.prompts.length import LongPrompt, Room
from gpg_vl.records import FrameTimes, ImageView, VideoView
from gpg_vl.rollout.limits import EngineLimits, RowLimits, find_limits
from gpg_vl.rollout.served.client import Refused
from gpg_vl.rollout.served.shared_folder import make_token
from gpg_vl.run.run_log import read_metrics
from gpg_vl.train import train
from tests.support.builders import make_sample
from tests.support.messages import lines_naming, naming
from tests.support.rollout_servers import SmallBackend, serving
from tests.support.small_recipes import small_recipe

IMAGE = ImageView(84, 84, 84, 84, None)
VIDEO = VideoView(84, 84, 84, 84, None, FrameTimes((0, 1), 2, 1.0))


def test_each_limit_is_kept_to_the_last_token_and_image(load: Any) -> None:
    adapter = load()
    of_engines = [EngineLimits(100, "one key", 2, "another"), EngineLimits(90, "a third", 8, "key")]
    limits = RowLimits(adapter, [*of_engines, EngineLimits(90, "a fourth", 8, "key")])
    assert limits.lengths == {100: "raise one key", 90: "raise a third and a fourth"}
    room = Room(10, limits.lengths)
    room.check(80)
    with pytest.raises(LongPrompt, match=naming(81, 10, 90, "raise a third and a fourth")):
        room.check(81)
    limits.check("a", [IMAGE, IMAGE])
    with pytest.raises(ValueError, match=naming("3 images", 2, "raise another")):
        limits.check("a", [IMAGE] * 3)
    with pytest.raises(ValueError, match=naming("sample a", "video", "rollout.engine to hf")):
        limits.check("a", [VIDEO])
    adapter.takes_sized_images = False
    limits.check("a", [])
    with pytest.raises(ValueError, match=naming("sample a", "image", "rollout.engine to hf")):
        limits.check("a", [IMAGE])


def test_limits_are_those_of_the_recipe_or_of_the_servers_that_answer(load: Any, tmp_path: Path) -> None:
    adapter = load()
    assert find_limits(RolloutConfig(), adapter, of_all=True) is None

    def limits_of(**keys: Any) -> Any:
        found = find_limits(
            RolloutConfig(engine="vllm", vllm=VllmConfig(weights=str(tmp_path), **keys)), adapter, of_all=False
        )
        assert found is not None
        return found._limits

    lengths = "rollout.vllm.max_model_len", "rollout.vllm.max_images"
    colocated = limits_of(mode="colocate", max_model_len=99, max_images=3)
    assert colocated == [EngineLimits(99, lengths[0], 3, lengths[1])]
    assert limits_of(mode="colocate")[0].context_length == adapter.context_length
    make_token(tmp_path)
    assert limits_of(servers=["http://127.0.0.1:9"]) == []
    with serving(SmallBackend(load()), tmp_path) as (url, _):
        options = f"--max-model-len of {url}", f"--max-images of {url}"
        assert limits_of(servers=["http://127.0.0.1:9", url]) == [EngineLimits(64, options[0], 1, options[1])]
    other = SmallBackend(load(dtype="bfloat16"))
    with serving(other, tmp_path) as (url, _), pytest.raises(Refused, match="--dtype float32"):
        limits_of(servers=[url])


def test_where_images_are_scaled_down_to_fit_every_server_has_to_answer(load: Any, tmp_path: Path) -> None:
    adapter, gone = load(), "http://127.0.0.1:9"
    make_token(tmp_path)
    with serving(SmallBackend(load()), tmp_path) as (url, _):
        for servers in ([url], [gone, url]):
            vllm = VllmConfig(weights=str(tmp_path), servers=servers, retries=1, retry_s=0.01)
            config = RolloutConfig(engine="vllm", vllm=vllm)
            if gone in servers:
                with pytest.raises(ValueError, match=naming("data.on_long_prompt", "shrink", gone)):
                    find_limits(config, adapter, of_all=True)
            else:
                found = find_limits(config, adapter, of_all=True)
                assert found is not None and [*found.lengths] == [64]


def test_an_evaluation_ends_before_its_first_row(
    load: Any, model_folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The long row is the last one."""
    rows, backend = str(tmp_path / "rows.jsonl"), SmallBackend(load())
    write_jsonl([make_sample([(28, 28)], 0), make_sample([], 1, question="How many? " * 60)], tmp_path / "rows.jsonl")
    with serving(backend, tmp_path / "shared") as (url, _):
        words = ["--rollout.engine", "vllm", "--rollout.vllm.servers", f'["{url}"]', "--rollout.vllm.weights",
                 str(tmp_path / "shared"), "--rollout.max_new_tokens", "8", "--model.dtype", "float32",
                 "--model.min_pixels", "784", "--prompt.template", "{question}"]  # fmt: skip
        assert cli.main(["eval", str(model_folders["qwen2_vl"]), "--data", rows, *words]) == 2
        assert lines_naming(capsys.readouterr().err, "row 2", "64", f"--max-model-len of {url}")
    assert backend.num_asked == 0


def test_an_evaluation_scales_images_down_to_what_a_server_holds(
    load: Any, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    rows, shared, backend = tmp_path / "rows.jsonl", str(tmp_path / "shared"), SmallBackend(load())
    write_jsonl([make_sample([(300, 200)], 0)], rows)
    with serving(backend, tmp_path / "shared") as (url, _):
        words = ["--rollout.engine=vllm", f'--rollout.vllm.servers=["{url}"]', f"--rollout.vllm.weights={shared}",
                 "--rollout.max_new_tokens=8", "--model.dtype=float32", "--model.min_pixels=784",
                 "--prompt.template={question}", "--data.on_long_prompt"]  # fmt: skip
        command = ["eval", str(model_folders["qwen2_vl"]), "--data", str(rows), *words]
        assert cli.main([*command, "fail"]) == 2 and backend.num_asked == 0
        assert cli.main([*command, "shrink"]) == 0 and backend.num_asked


@pytest.mark.parametrize("on_long_prompt", ["drop", "shrink"])
def test_a_run_leaves_out_what_a_server_has_no_room_for_or_makes_it_fit(
    load: Any, model_folders: dict[str, Path], tmp_path: Path, on_long_prompt: str
) -> None:
    rows, num_dropped = tmp_path / "rows.jsonl", int(on_long_prompt == "drop")
    write_jsonl([make_sample([(28, 28)], 0), make_sample([(300, 200)], 1)], rows)
    with serving(SmallBackend(load()), tmp_path / "shared") as (url, _):
        values = {
            "model.path": str(model_folders["qwen2_vl"]), "data.train": [str(rows)], "run.steps": 1,
            "data.on_long_prompt": on_long_prompt, "rollout.engine": "vllm", "rollout.vllm.servers": [url],
            "rollout.vllm.weights": str(tmp_path / "shared"), "rollout.prompts_per_step": 2, "rollout.group_size": 2,
            "rollout.max_new_tokens": 8, "run.output_dir": str(tmp_path / "run"),
        }  # fmt: skip
        train(small_recipe(values, {}))
    [row] = read_metrics(tmp_path / "run")
    assert row["left_out"] == ({"long_prompt": 1} if num_dropped else {})
    assert row["shrunk_rows"] == 1 - num_dropped
