"""TRL's GRPOTrainer on the kit's model and groups, with the settings that serve it best.

``loss_type="grpo", scale_rewards="none", beta=0`` is GPG without alpha; nothing is recomputed for old log-probs, no
gradient checkpointing, no logging of completions. TRL computes the entropy in every loss; that cannot be switched off.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from PIL import Image
from trl import GRPOConfig, GRPOTrainer

from gpg_vl.models.adapter import Adapter
from gpg_vl.models.families.qwen_vl import QwenVLAdapter
from gpg_vl.models.inputs.vision_records import join_vision
from gpg_vl.records import Prompt, TrainingGroup


def build_trainer(
    adapter: QwenVLAdapter,
    batch_size: int,
    group_size: int,
    max_new_tokens: int,
    rows: Sequence[dict[str, Any]] = (),
    temperature: float = 1.0,
    gradient_checkpointing: bool = False,
) -> Any:
    """A ``GRPOTrainer`` that steps on ``batch_size`` completions at once, ``group_size`` a prompt."""
    on_gpu = torch.cuda.is_available()
    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(prefix="trl-"),
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=1,
        steps_per_generation=1,
        num_generations=group_size,
        max_completion_length=max_new_tokens,
        num_iterations=1,
        loss_type="grpo",
        scale_rewards="none",
        beta=0.0,
        temperature=temperature,
        gradient_checkpointing=gradient_checkpointing,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        log_completions=False,
        disable_dropout=True,
        learning_rate=1e-6,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        max_steps=10**6,
    )
    blank = {"prompt": [{"role": "user", "content": "?"}], "image": Image.new("RGB", (56, 56))}
    return GRPOTrainer(
        model=adapter.model,
        processing_class=adapter.processor,
        reward_funcs=_no_reward,
        args=config,
        train_dataset=Dataset.from_list(list(rows) or [blank] * group_size),
    )


def _no_reward(completions: list[Any], **columns: Any) -> list[float | None]:
    return [float(i % 2) for i in range(len(completions))]


def vision_fields(adapter: Adapter, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """What ``GRPOTrainer._generate_single_turn`` takes beside token ids, a prompt for each row."""
    return {
        **adapter.join_vision([prompt.encoded.vision for prompt in prompts]).tensors,  # type: ignore[misc]
        "mm_token_type_ids": [list(prompt.encoded.token_types) for prompt in prompts],
    }


def loss_inputs(adapter: Adapter, groups: Sequence[TrainingGroup]) -> dict[str, Any]:
    """The groups as ``GRPOTrainer._compute_loss`` takes them: a row a completion, images repeated."""
    device = adapter.device
    rows = [
        (group.prompt, completion, -coefficients[0] * len(coefficients))
        for group in groups
        for completion, coefficients in zip(group.completions, group.coefficients, strict=True)
    ]
    prompt_length = max(len(prompt.encoded.token_ids) for prompt, _, _ in rows)
    length = max(len(completion.token_ids) for _, completion, _ in rows)
    prompt_ids = torch.full((len(rows), prompt_length), adapter.pad_token_id)
    prompt_mask = torch.zeros_like(prompt_ids)
    token_types = torch.zeros((len(rows), prompt_length + length), dtype=torch.long)
    completion_ids = torch.full((len(rows), length), adapter.pad_token_id)
    completion_mask = torch.zeros_like(completion_ids)
    for r, (prompt, completion, _) in enumerate(rows):
        start, stop = prompt_length - len(prompt.encoded.token_ids), len(completion.token_ids)
        prompt_ids[r, start:] = torch.tensor(prompt.encoded.token_ids)
        prompt_mask[r, start:] = 1
        token_types[r, start:prompt_length] = torch.tensor(prompt.encoded.token_types)
        completion_ids[r, :stop] = torch.tensor(completion.token_ids)
        completion_mask[r, :stop] = 1
    inputs = {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": completion_ids,
        "completion_mask": completion_mask,
        "advantages": torch.tensor([advantage for _, _, advantage in rows]),
        "num_items_in_batch": completion_mask.sum(),
        "mm_token_type_ids": token_types,
        **join_vision([prompt.encoded.vision for prompt, _, _ in rows]).tensors,  # type: ignore[misc]
    }
    return {name: tensor.to(device) for name, tensor in inputs.items()} | {"num_images": [1] * len(rows)}
