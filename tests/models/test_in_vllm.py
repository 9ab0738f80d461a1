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

TEXT, ONE, SEVERAL, OTHER = range(4)  # of a case's pictures
ALL = (TEXT, ONE, SEVERAL, OTHER)
ASKED = {
    "qwen2_vl": ALL,
    "qwen2_5_vl": ALL,
    "qwen3_vl": ALL,
    "qwen3_vl_moe": ALL,
    "internvl": ALL,
    "smolvlm": ALL,
    "idefics3": ALL,
    "glm4v": ALL,
    "glm4v_moe": ALL,
    "lfm2_vl": ALL,
    "glm46v": ALL,
    "mistral3": ALL,
    "llava_onevision": (TEXT, ONE, OTHER),  # of several images vLLM cuts each into tiles
    "gemma3": (TEXT,),  # on a CPU, vLLM does not let an image see itself whole
    "gemma4": (TEXT,),
}
KERNELS = {"lfm2_vl": ["-rotary_embedding"]}
"""Without vLLM's kernel for CPUs, which differs from its plain code where queries have a dimension of heads."""


@pytest.mark.vllm
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("family", ASKED)
def test_answers_are_those_of_the_kit(tmp_path: Path, family: str) -> None:
    """Greedy tokens, and their log-probs by plain rows; images need no other size, or are cut into tiles."""
    case = CASES[family]
    adapter = load_case(case, write_tiny_model(tmp_path / "tiny", family, 1, tie_word_embeddings=case.is_tied))
    shake(adapter)
    adapter.save(tmp_path / "saved")
    samples = [make_sample(case.pictures[number], number) for number in ASKED[family]]
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
    words = [PYTHON, script, tmp_path / "saved", tmp_path / "rows.json", answers, *KERNELS.get(family, [])]
    variables = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1"}
    subprocess.run(list(map(str, words)), env={**os.environ, **variables}, check=True)
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
