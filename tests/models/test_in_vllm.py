"""What vLLM itself makes of a family's saved folder, with its own processing of images (``make test-vllm``)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from gpg_vl.models.plain_rows import plain_log_probs
from gpg_vl.models.tiny import write_tiny_model
from gpg_vl.records import Completion
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine
from tests.support.builders import make_prompt, make_sample
from tests.support.families import CASES, load_case, shake
from tests.support.vllm_servers import PYTHON, ROOT


@pytest.mark.vllm
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "smolvlm"])
def test_answers_are_those_of_the_kit(tmp_path: Path, family: str) -> None:
    """Greedy tokens, and their log-probs by plain rows; images need no other size, or are cut into tiles."""
    adapter = load_case(CASES[family], write_tiny_model(tmp_path / "tiny", family, seed=1))
    shake(adapter)
    adapter.save(tmp_path / "saved")
    samples = [make_sample(sizes, seed) for seed, sizes in enumerate(CASES[family].pictures)]
    prompts = [make_prompt(adapter, sample) for sample in samples]
    rows = []
    for number, (sample, prompt) in enumerate(zip(samples, prompts, strict=True)):
        paths = [tmp_path / f"{number}-{n}.png" for n in range(len(sample.images))]
        for path, image in zip(paths, sample.images, strict=True):
            assert isinstance(image, bytes)
            path.write_bytes(image)
        banned = list(adapter.banned_token_ids)
        rows.append({"text": prompt.text, "images": list(map(str, paths)), "banned": banned})
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    script, answers = ROOT / "tests/support/vllm_answers.py", tmp_path / "answers.json"
    words = [str(PYTHON), str(script), *map(str, (tmp_path / "saved", tmp_path / "rows.json", answers))]
    variables = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1"}
    subprocess.run(words, env={**os.environ, **variables}, check=True)
    groups = HfEngine(adapter, 10**6).generate(prompts, 1, Sampling(16, 0.0), [(n,) for n in range(len(prompts))])
    gaps = []
    for prompt, group, (num_tokens, ids, given) in zip(prompts, groups, json.loads(answers.read_text()), strict=True):
        assert num_tokens == len(prompt.encoded.token_ids)
        assert tuple(ids) == group.completions[0].token_ids
        with torch.no_grad():
            expected = plain_log_probs(adapter, prompt.encoded, Completion(tuple(ids), "", finished=True), 1.0)
        gaps.append(float((torch.tensor(given) - expected).abs().max()))
    print(f"{family}: largest distance of a log-prob {max(gaps):.1e}")
    assert max(gaps) < 1e-4
