"""What vLLM answers, greedily; with the Python of ``make setup-vllm``: ``vllm_answers.py FOLDER ROWS ANSWERS
[CUSTOM OPS]``.

Rows and answers are JSON. A row has the text of the prompt, paths of images and tokens that may not come. An answer
has the number of the prompt's tokens, the tokens and their log-probs. CUSTOM OPS are vLLM's own names of kernels.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main(folder: str, rows: str, answers: str, *custom_ops: str) -> None:
    from PIL import Image
    from vllm import LLM, SamplingParams

    model: Any = LLM(
        model=folder, dtype="float32", enforce_eager=True, max_model_len=1024, limit_mm_per_prompt={"image": 4},
        logprobs_mode="processed_logprobs", seed=0, compilation_config={"custom_ops": list(custom_ops)},
    )  # fmt: skip
    found = []
    for row in json.loads(Path(rows).read_text()):
        images = [Image.open(path).convert("RGB") for path in row["images"]]
        prompt = {"prompt": row["text"], **({"multi_modal_data": {"image": images}} if images else {})}
        bias = dict.fromkeys(row["banned"], -100.0) or None
        sampling = SamplingParams(temperature=0.0, max_tokens=16, logit_bias=bias, logprobs=1)
        [given] = model.generate([prompt], sampling, use_tqdm=False)
        ids, log_probs = given.outputs[0].token_ids, given.outputs[0].logprobs
        chosen = [each[token].logprob for each, token in zip(log_probs, ids, strict=True)]
        found.append([len(given.prompt_token_ids), list(ids), chosen])
    Path(answers).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
