"""The words in which a recipe may say a value or a key: short forms, and the names that other kits use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SAME_VALUES: Mapping[str, Mapping[Any, Any]] = {
    "model.dtype": {"bf16": "bfloat16", "fp32": "float32", "f32": "float32", "float": "float32"},
    "prompt.thinking": {True: "on", False: "off"},  # as YAML reads on and off
}
"""Other spellings of a key's values."""

OTHER_NAMES: Mapping[str, str] = {
    # TRL's GRPOConfig and ModelConfig
    "model_name_or_path": "model.path",
    "model_revision": "model.revision",
    "torch_dtype": "model.dtype",
    "bf16": "model.dtype",
    "attn_implementation": "model.attention",
    "use_peft": "model.lora",
    "lora_r": "model.lora.r",
    "load_in_4bit": "model.lora.quantize",
    "use_qlora": "model.lora.quantize",
    "lora_alpha": "model.lora.alpha",
    "lora_target_modules": "model.lora.target_modules",
    "dataset_name": "data.train",
    "dataset_train_split": "data.train",
    "num_generations": "rollout.group_size",
    "max_completion_length": "rollout.max_new_tokens",
    "max_prompt_length": "data.on_long_prompt",
    "per_device_train_batch_size": "rollout.prompts_per_step",
    "gradient_accumulation_steps": "rollout.prompts_per_step",
    "generation_batch_size": "rollout.prompts_per_step",
    "steps_per_generation": "update.groups_per_update",
    "num_iterations": "update.epochs_per_rollout",
    "use_vllm": "rollout.engine",
    "beta": "objective.kl_coefficient",
    "epsilon": "objective.clip_low",
    "epsilon_high": "objective.clip_high",
    "delta": "objective.max_ratio",
    "loss_type": "objective.name",
    "scale_rewards": "objective.f_norm",
    "mask_truncated_completions": "objective.mask_unfinished",
    "reward_weights": "rewards.weights",
    "reward_funcs": "rewards.functions",
    "system_prompt": "prompt.system",
    "enable_thinking": "prompt.thinking",
    "lr_scheduler_type": "update.schedule",
    "lr_scheduler_kwargs": "update.schedule_options",
    "adam_beta1": "update.betas",
    "adam_beta2": "update.betas",
    "optim": "update.optimizer",
    "max_steps": "run.steps",
    "num_train_epochs": "run.steps",
    "save_steps": "run.save_every",
    "eval_steps": "run.eval_every",
    "per_device_eval_batch_size": "rollout.tokens_per_batch",
    "report_to": "run.trackers",
    "resume_from_checkpoint": "run.resume",
    "freeze_vision_modules": "model.freeze",
    # verl and EasyR1
    "rollout.n": "rollout.group_size",
    "model_path": "model.path",
    "enable_gradient_checkpointing": "model.gradient_checkpointing",
    "lora_rank": "model.lora.r",
    "train_files": "data.train",
    "val_files": "data.eval",
    "prompt_key": "data.train",
    "image_key": "data.train",
    "answer_key": "data.train",
    "image_dir": "data.image_root",
    "train_batch_size": "rollout.prompts_per_step",
    "rollout_batch_size": "rollout.prompts_per_step",
    "max_response_length": "rollout.max_new_tokens",
    "filter_overlong_prompts": "data.on_long_prompt",
    "format_prompt": "prompt.template",
    "optim.lr": "update.learning_rate",
    "lr": "update.learning_rate",
    "lr_warmup_steps": "update.warmup_steps",
    "ppo_mini_batch_size": "update.groups_per_update",
    "global_batch_size": "update.groups_per_update",
    "ppo_micro_batch_size_per_gpu": "update.tokens_per_micro_batch",
    "micro_batch_size_per_device_for_update": "update.tokens_per_micro_batch",
    "ppo_max_token_len_per_gpu": "update.tokens_per_micro_batch",
    "ppo_epochs": "update.epochs_per_rollout",
    "kl_loss_coef": "objective.kl_coefficient",
    "kl_coef": "objective.kl_coefficient",
    "clip_ratio": "objective.clip_low",
    "clip_ratio_low": "objective.clip_low",
    "clip_ratio_high": "objective.clip_high",
    "loss_agg_mode": "objective.reduction",
    "adv_estimator": "objective.name",
    "reward_function": "rewards.functions",
    "custom_reward_function.path": "rewards.functions",
    "total_training_steps": "run.steps",
    "total_epochs": "run.steps",
    "max_num_gen_batches": "objective.max_draws",
    "save_freq": "run.save_every",
    "save_limit": "run.save_total_limit",
    "max_actor_ckpt_to_keep": "run.save_total_limit",
    "test_freq": "run.eval_every",
    "val_freq": "run.eval_every",
    "default_local_dir": "run.output_dir",
    "save_checkpoint_path": "run.output_dir",
    "logger": "run.trackers",
    "rollout.name": "rollout.engine",
    "temperature": "rollout.temperature",
    "warmup_ratio": "update.warmup_steps",
    "grad_clip": "update.max_grad_norm",
    "save_strategy": "run.save_every",
    "eval_strategy": "run.eval_every",
    "val_before_train": "run.eval_every",
    "dataset_config": "data.train",
    "dataset_test_split": "data.eval",
    "fp16": "model.dtype",
    "lora_dropout": "model.lora",
    "freeze_vision_tower": "model.freeze",
    "importance_sampling_level": "objective.name",
    "use_kl_loss": "objective.kl_coefficient",
    "use_kl_in_reward": "objective.kl_coefficient",
    "disable_kl": "objective.kl_coefficient",
    "norm_adv_by_std_in_grpo": "objective.f_norm",
    "filter_groups.enable": "objective.beta_th",
    "overwrite_output_dir": "run.resume",
    "resume_mode": "run.resume",
    "run_name": "run.output_dir",
    "experiment_name": "run.output_dir",
}
"""Names that TRL, verl and EasyR1 use, and the kit's key for each: the end of a dotted name is enough."""


def key_of(name: str, known: Sequence[str]) -> str | None:
    """The kit's key for a name of another kit, or for a key of its own without its section; None for neither.

    ``rollout.num_generations``, ``--num_generations`` and ``actor_rollout_ref.rollout.n`` are ``rollout.group_size``.
    """
    words = name.split(".")
    for ending in (".".join(words[start:]) for start in range(len(words))):
        if ending in OTHER_NAMES:
            return OTHER_NAMES[ending]
    own = [key for key in known if key.rpartition(".")[2] == words[-1]]
    return own[0] if len(own) == 1 else None


def leaves(name: str, value: Any) -> list[str]:
    """The dotted names of all values of a section: ``a: {b: {c: 1}}`` is ``a.b.c``."""
    if not isinstance(value, Mapping):
        return [name]
    return [leaf for key, each in value.items() for leaf in leaves(f"{name}.{key}", each)]
