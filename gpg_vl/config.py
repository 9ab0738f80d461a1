"""The recipe: every key that a run has, read from YAML plus ``--a.b value`` (see cli.py).

The docstring of each class explains its keys, a line each; ``gpg-vl train --help`` prints them. ``__post_init__``
checks what can be checked from the values alone; a ``ValueError`` names the key and the way out.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from gpg_vl.records import AnswerIn, Frame, Rule

PARTS = ("vision", "projector", "text")
Attention = Literal["auto", "sdpa", "grouped_sdpa", "flex_attention", "eager"]
PACKED_ATTENTION = ("grouped_sdpa", "flex_attention")
Reduction = Literal["group", "sequence", "token", "token_official", "sequence_sum", "group_sum", "constant"]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


_MAY_BE_INFINITE = {
    "update.max_grad_norm",
    "rewards.timeout_s",
    "objective.clip_low",
    "objective.clip_high",
    "objective.max_ratio",
    "run.stop_when",
}
"""Limits; an infinite one is no limit."""
_LARGEST = 1e30  # what is computed from it still fits float32


def _refuse_not_finite(key: str, value: Any) -> None:
    if isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            _refuse_not_finite(key, each)
    elif isinstance(value, float) and not abs(value) <= _LARGEST:
        is_limit = key in _MAY_BE_INFINITE and value > 0
        _require(is_limit, f"{key} is {value}; give a finite number, at most {_LARGEST:g}")


def _refuse_no_pattern(key: str, value: str | list[str] | None) -> None:
    try:
        re.compile(f"(?={value})" if isinstance(value, str) else "")
    except re.error as error:
        raise ValueError(f"{key}: {value} is not a regular expression ({error}); correct it, or give a list") from error


@dataclass(frozen=True)
class LoraConfig:
    """A low-rank adapter that is trained in place of the weights (docs/parameters.md).

    Args:
        r: rank of the adapter
        alpha: the adapter's output is scaled by alpha / r
        parts: parts whose linear layers get an adapter: text, vision or both
        target_modules: which of them, as peft takes it: a list of names or of their ends, or a regular expression for
            whole names; null or all-linear: every one
        dropout: must be 0
        quantize: nf4: the text model's frozen linear layers are held in 4 bits (QLoRA, bitsandbytes); null: in
            model.dtype
    """

    r: int = 16
    alpha: float = 32.0
    parts: list[Literal["text", "vision"]] = field(default_factory=lambda: ["text"])
    target_modules: str | list[str] | None = None
    dropout: float = 0.0
    quantize: Literal["nf4"] | None = None

    def __post_init__(self) -> None:
        _require(self.r >= 1, "model.lora.r must be at least 1")
        _require(self.alpha > 0, "model.lora.alpha must be positive")
        _require(len(self.parts) > 0, "model.lora.parts is empty; name text, vision or both")
        _require(self.target_modules not in ("", []), "model.lora.target_modules is empty; null takes every layer")
        _refuse_no_pattern("model.lora.target_modules", self.target_modules)
        exact = "model.lora.dropout must be 0: with dropout the trained log-probs are not those of the sampled tokens"
        _require(self.dropout == 0, exact)


@dataclass(frozen=True)
class ModelConfig:
    """The policy.

    Args:
        path: folder of the model, or its name on the hub
        revision: branch, tag or commit of a model on the hub; null: the newest
        family: auto: the kit's adapter for its model_type; generic: any image-text-to-text model of transformers, on
            ordinary rows (update.pack: false), if the self-check passes
        dtype: type that the model computes in, bfloat16 (bf16) or float32 (fp32); with bfloat16 it has bfloat16
            weights, and trained ones have a float32 master besides
        device: auto: the GPU; without one, the CPU for models of up to 0.5 B weights; cpu: the CPU, whatever the size
        attention: attention implementation, or one for each of {text, vision}; auto: grouped_sdpa on a CPU; on CUDA
            flex_attention for long packed rows, otherwise sdpa with a dense mask, and for vision in bfloat16, in
            families whose tower takes it, one call a layer; with {vision: sdpa} one a window
        min_pixels: smaller images are enlarged to this many pixels
        max_pixels: larger images are shrunk to this many pixels
        max_tiles: most tiles that an image is cut into, in families that do so; null: as many as max_pixels hold
        max_video_pixels: all frames of a video together are shrunk to this many pixels, each to at most max_pixels
        frame: how the model writes coordinates, one of grid_1000, grid_1000_y_first, loc_1024, unit, resized_pixels;
            null: as its family documents
        freeze: parts to leave untrained: any of vision, projector, text
        lora: {r, alpha, parts, target_modules, quantize}: trains an adapter on text, vision or both and freezes the
            rest; null: trains the weights
        gradient_checkpointing: recompute activations in the backward pass; less memory, more time
        kernels: the policy's norms and gated layers, in training on CUDA, in families that docs/gpu.md names; torch: as
            transformers has them; liger: by the Triton kernels of liger-kernel; compiled: by torch.compile
    """

    path: str = ""
    revision: str | None = None
    family: Literal["auto", "generic"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    device: Literal["auto", "cpu"] = "auto"
    attention: Attention | dict[str, Attention] = "auto"
    min_pixels: int = 3136
    max_pixels: int = 401408
    max_tiles: int | None = None
    max_video_pixels: int = 3211264
    frame: Frame | None = None
    freeze: list[str] = field(default_factory=list)
    lora: LoraConfig | None = None
    gradient_checkpointing: bool = False
    kernels: Literal["torch", "liger", "compiled"] = "torch"

    def __post_init__(self) -> None:
        _require(
            0 < self.min_pixels <= self.max_pixels, "model.min_pixels must be positive and at most model.max_pixels"
        )
        _require(self.max_video_pixels > 0, "model.max_video_pixels must be positive")
        _require(self.max_tiles is None or self.max_tiles >= 1, "model.max_tiles must be at least 1")
        unknown = sorted(set(self.freeze) - set(PARTS))
        _require(not unknown, f"model.freeze: {unknown} is not part of the model; the parts are {list(PARTS)}")
        _require(set(self.freeze) != set(PARTS), "model.freeze freezes every part; leave at least one to train")
        idle = "model.freeze: model.lora already freezes every weight; remove model.freeze"
        _require(self.lora is None or not self.freeze, idle)
        if isinstance(self.attention, dict):
            unknown = sorted(set(self.attention) - {"text", "vision"})
            _require(not unknown, f"model.attention: {unknown} cannot be set; the keys are text and vision")
            packed = self.attention.get("vision") in PACKED_ATTENTION
            _require(not packed, f"model.attention: vision has no packed rows; use {PACKED_ATTENTION} for text only")

    @property
    def trained_parts(self) -> list[str]:
        return [part for part in PARTS if part not in self.freeze and (self.lora is None or part in self.lora.parts)]

    @property
    def is_quantized(self) -> bool:
        """Whether frozen weights are held in 4 bits."""
        return self.lora is not None and self.lora.quantize is not None

    def attention_of(self, sub_model: Literal["text", "vision"]) -> Attention:
        """The attention implementation of a sub-model. One that only suits packed rows applies to the text alone."""
        if isinstance(self.attention, dict):
            return self.attention.get(sub_model, "auto")
        return "auto" if sub_model == "vision" and self.attention in PACKED_ATTENTION else self.attention


@dataclass(frozen=True)
class DataConfig:
    """The rows.

    Args:
        train: training sources, each a path or {path, weight, columns}; of a hub set also {split, revision, config}
        eval: validation sources, scored every run.eval_every steps
        image_root: folder that paths of images and videos are relative to and must stay inside; null: the data file's
            own folder
        image_hosts: hosts that images and videos may be fetched from, e.g. images.example.org; an empty list refuses
            every URL
        fps: frames that the model sees of a second of video
        max_frames: most frames that it sees of a video, spread over all of it
        on_large_image: what to do with an image of more than 20 million pixels, as of a phone; fail: it is a bad image;
            shrink: open it at a half, a quarter or an eighth of its size
        on_bad_image: what to do if a training image or video cannot be opened; fail: end the run; skip: leave out its
            row
        on_long_prompt: what to do if a prompt is too long for the model or a micro-batch; fail: end the run before its
            first step; drop: leave the row out of training; shrink: scale its images down
        workers: speed knob; threads that open, resize and encode the images of the next prompts while the model works;
            0: none, each draw prepares its own; null: 2 beside a GPU, 0 on a CPU
    """

    train: list[str | dict[str, Any]] = field(default_factory=list)
    eval: list[str | dict[str, Any]] = field(default_factory=list)
    image_root: str | None = None
    image_hosts: list[str] = field(default_factory=list)
    fps: float = 2.0
    max_frames: int = 32
    on_large_image: Literal["fail", "shrink"] = "fail"
    on_bad_image: Literal["fail", "skip"] = "fail"
    on_long_prompt: Literal["fail", "drop", "shrink"] = "fail"
    workers: int | None = None

    def __post_init__(self) -> None:
        _require(0 < self.fps < math.inf, "data.fps must be above 0")
        _require(self.max_frames >= 1, "data.max_frames must be at least 1")
        _require(self.workers is None or 0 <= self.workers <= 64, "data.workers must be between 0 and 64")
        urls = [host for host in self.image_hosts if "/" in host or "*" in host or not host]
        _require(not urls, f"data.image_hosts: {urls} is not a host name; write names such as images.example.org")


@dataclass(frozen=True)
class PromptConfig:
    """How a question is put to the model.

    Args:
        style: chat: the model's chat template; base: plain text that opens <think>; auto: chat if the model's template
            marks roles, else base
        template: wording that replaces the task's; {question} stands for the row's question; null: the task's own
        system: system message of a chat prompt; null: whatever the model's template does by default
        thinking: whether a chat template that knows enable_thinking asks for reasoning; auto: what it does by default
        answer_in: where the prompt asks for the answer and scoring looks for it; tags: <answer></answer>; boxed: the
            last \\boxed{} outside the reasoning
    """

    style: Literal["auto", "chat", "base"] = "auto"
    template: str | None = None
    system: str | None = None
    thinking: Literal["auto", "on", "off"] = "auto"
    answer_in: AnswerIn = "tags"

    def __post_init__(self) -> None:
        ok = self.template is None or "{question}" in self.template
        _require(ok, "prompt.template has no {question}; insert it where the row's question belongs")


HEAD_FILE = "head.safetensors"
"""In a folder that ``rewards.preference`` names."""


@dataclass(frozen=True)
class RewardsConfig:
    """The reward.

    Args:
        scorer: strict: the kit's own; legacy: the published code's reward, to compare with published numbers
            (docs/rewards.md)
        weights: weights of reward parts by name, in place of the task's own; 0: log the part without training on it
        functions: reward functions written for TRL, as FILE.py:NAME; each is an additional part with weight 1
        preference: folder that gpg-vl prefer wrote; adds a part preference in [0, 1] with weight 1, in training only
        timeout_s: time limit in seconds for scoring one completion or for one call of a reward function, not counting
            time spent waiting for a processor; after that its process is killed
        memory_mb: memory limit of a scoring process in MB, on top of what the task's code takes
        on_error: what a timeout or error means; zero: reward 0; drop_group: leave out the group; abort: stop the run
    """

    scorer: Rule = "strict"
    weights: dict[str, float] = field(default_factory=dict)
    functions: list[str] = field(default_factory=list)
    preference: str | None = None
    timeout_s: float = 5.0
    memory_mb: int = 2048
    on_error: Literal["zero", "drop_group", "abort"] = "zero"

    def __post_init__(self) -> None:
        _require(self.timeout_s > 0, "rewards.timeout_s must be above 0")
        _require(self.memory_mb >= 64, "rewards.memory_mb must be at least 64")
        _require(all(map(math.isfinite, self.weights.values())), "rewards.weights must be finite numbers")


@dataclass(frozen=True)
class RefreshConfig:
    """When the prompts of a rollout give way to new ones (docs/objectives.md); experimental.

    Args:
        trigger: shift: the policy has moved away from the one that sampled
        threshold: largest shift at which a rollout is used again, a bound on the total variation between completions
        max_uses: maximum number of passes over a rollout
    """

    trigger: Literal["shift"] = "shift"
    threshold: float = 0.1
    max_uses: int = 16

    def __post_init__(self) -> None:
        _require(self.threshold > 0, "rollout.refresh.threshold must be above 0")
        _require(self.max_uses >= 2, "rollout.refresh.max_uses must be at least 2")


def _is_address(server: str) -> bool:
    found = re.fullmatch(r"http://([\w.-]+|\[[0-9A-Fa-f:.]+\]):(\d{1,5})", server)
    return found is not None and 1 <= int(found[2]) <= 65535


@dataclass(frozen=True)
class VllmConfig:
    """Where rollout.engine: vllm samples (docs/rollout-engines.md).

    Args:
        mode: server: in the processes of gpg-vl serve-rollouts, which may have other libraries and other GPUs;
            colocate: in the training processes, on the same GPUs, asleep while the update runs; experimental
        servers: their addresses; the prompts of a draw are dealt to all of them
        weights: server: folder that run and servers share: each update's weights and the servers' token are in it
        timeout_s: seconds that an answer may take, completions or new weights
        retries: how often all servers are asked again before on_failure applies; with the pauses of the default, for
            four minutes, in which a server that is started again loads its model
        retry_s: pause before the first time; it doubles each time; all of them may take two hours
        on_failure: what follows when no server answers; stop: the run ends, to be resumed; hf: the engine hf does the
            servers' part
        max_gap: largest distance between the log-probs of engine and update, in nats; float32: of any token, else the
            mean; null: 1e-3 in float32, 0.05 in bfloat16
        gpu_memory: colocate: share of a GPU that the engine takes while it is awake
        max_model_len: colocate: tokens of prompt and completion together; null: the model's
        max_images: colocate: most images of a prompt, for which the engine keeps room
    """

    mode: Literal["server", "colocate"] = "server"
    servers: list[str] = field(default_factory=lambda: ["http://127.0.0.1:8470"])
    weights: str = "runs/rollout-weights"
    timeout_s: float = 600.0
    retries: int = 8
    retry_s: float = 1.0
    on_failure: Literal["stop", "hf"] = "stop"
    max_gap: float | None = None
    gpu_memory: float = 0.3
    max_model_len: int | None = None
    max_images: int = 8

    def __post_init__(self) -> None:
        _require(len(self.servers) > 0, "rollout.vllm.servers is empty; name the address of a server")
        wrong = [each for each in self.servers if not _is_address(each)]
        _require(
            not wrong, f"rollout.vllm.servers: {wrong} is not an address; write http://HOST:PORT, port up to 65535"
        )
        _require(len(set(self.servers)) == len(self.servers), f"rollout.vllm.servers: {self.servers} has one twice")
        _require(0 < self.timeout_s <= 86400, "rollout.vllm.timeout_s must be above 0 and at most 86400, a day")
        _require(0 <= self.retries <= 20, "rollout.vllm.retries must be between 0 and 20")
        _require(0 < self.retry_s <= 60, "rollout.vllm.retry_s must be above 0 and at most 60")
        hours = self.retry_s * (2**self.retries - 1) / 3600
        _require(hours <= 2, f"rollout.vllm.retries: pauses of {hours:.1f} hours, more than 2; lower it or retry_s")
        _require(self.max_gap is None or self.max_gap > 0, "rollout.vllm.max_gap must be above 0")
        _require(0 < self.gpu_memory < 1, "rollout.vllm.gpu_memory must be above 0 and below 1")
        _require(self.max_model_len is None or self.max_model_len >= 2, "rollout.vllm.max_model_len must be at least 2")
        _require(self.max_images >= 0, "rollout.vllm.max_images must be at least 0")


@dataclass(frozen=True)
class RolloutConfig:
    """Sampling of the groups.

    Args:
        engine: what generates the completions; hf: the kit's own loop on the transformers model; vllm: vLLM, as
            rollout.vllm says
        prompts_per_step: prompts drawn per optimizer step, over all ranks
        group_size: completions sampled per prompt; the supervised objective takes one, the gold completion
        max_new_tokens: maximum length of a sampled completion in tokens, end token included
        temperature: divides the logits, both in sampling and in the update
        top_p: nucleus sampling if below 1; the update still uses log-probs of the full distribution
        top_k: sample among the k most likely tokens; 0: off
        tokens_per_batch: speed knob of the engine hf; maximum number of tokens decoded together, counting for each row
            its prompt and the room for its completion; a group is never split; on CUDA the default stands for what
            fits (docs/scale.md)
        refresh: {trigger, threshold, max_uses}: use a rollout again while the policy has moved little; null: off
        vllm: {mode, servers, ...}: of the engine vllm
        importance: weights by how likely the update finds what was sampled, compared with the engine; none; token: each
            token by itself; sequence: all of a completion by its product (docs/rollout-engines.md)
        importance_cap: largest such weight
        ahead: 1: servers sample the next step's first draw while this step updates, from the weights before it; 0: off
    """

    engine: str = "hf"
    prompts_per_step: int = 16
    group_size: int = 8
    max_new_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    tokens_per_batch: int = 65536
    refresh: RefreshConfig | None = None
    vllm: VllmConfig = field(default_factory=VllmConfig)
    importance: Literal["none", "token", "sequence"] = "none"
    importance_cap: float = 2.0
    ahead: int = 0

    def __post_init__(self) -> None:
        _require(self.prompts_per_step >= 1, "rollout.prompts_per_step must be at least 1")
        _require(self.group_size >= 1, "rollout.group_size must be at least 1")
        _require(self.max_new_tokens >= 1, "rollout.max_new_tokens must be at least 1")
        _require(self.temperature > 0, "rollout.temperature must be above 0: GPG learns from samples, not from argmax")
        _require(0 < self.top_p <= 1, "rollout.top_p must be in (0, 1]")
        _require(self.top_k >= 0, "rollout.top_k must be 0 (off) or positive")
        _require(self.tokens_per_batch >= 1, "rollout.tokens_per_batch must be at least 1")
        _require(self.importance_cap >= 1, "rollout.importance_cap must be at least 1")
        truncated = "rollout.importance compares whole distributions; set rollout.top_p to 1 and rollout.top_k to 0"
        _require(self.importance == "none" or (self.top_p == 1 and self.top_k == 0), truncated)
        self._check_ahead()

    def _check_ahead(self) -> None:
        _require(self.ahead in (0, 1), "rollout.ahead must be 0 or 1")
        served = self.engine == "vllm" and self.vllm.mode == "server"
        where = "rollout.ahead needs servers; set rollout.engine to vllm and rollout.vllm.mode to server, or it to 0"
        _require(not self.ahead or served, where)
        older = "rollout.ahead samples from the weights of one step ago; set rollout.importance to token or sequence"
        _require(not self.ahead or self.importance != "none", older)

    @property
    def samples_elsewhere(self) -> bool:
        """Whether no rollout of the kit's own runs; ``on_failure: hf`` may have to, with all prompts."""
        return self.engine == "vllm" and (self.vllm.mode == "colocate" or self.vllm.on_failure == "stop")

    @property
    def sends_pictures(self) -> bool:
        """Whether the engine is given images as pixels, which prompts then keep, beside the tensors made from them."""
        return self.engine == "vllm"


@dataclass(frozen=True)
class ObjectiveConfig:
    """What the gradient follows (docs/algorithm.md, docs/objectives.md). A null key takes the objective's own default.

    Args:
        name: gpg, another name in docs/objectives.md, supervised (the gold completions), or FILE.py:CLASS
        form: variant of an objective that has several (docs/objectives.md)
        f_norm: divisor of the centred reward; one: none; std: the group's standard deviation (paper, Eq. 6)
        f_norm_eps: added to the std
        alpha: divide by the number of groups with signal (paper, Eq. 7) instead of by the number of all groups
        alpha_eps: added to 1/alpha; only for parity with the published multimodal code
        reduction: group (paper, Eq. 5), sequence, token, token_official (silent groups stay in the denominator),
            sequence_sum, group_sum, or constant (each token counts 1 / max_length)
        completions_per_pass: reinforce averages over parts of a group of this size; null: the whole group
        max_length: tokens of a completion that dr_grpo divides by and dapo shapes to; null: rollout.max_new_tokens
        kl_coefficient: weight of the KL to the initial policy; above 0, that model is also run
        clip_low: the ratio of new to old policy is clipped below 1 - clip_low
        clip_high: the ratio is clipped above 1 + clip_high
        max_ratio: upper bound of the ratio; for cispo on every token, for reinforce_rej (code) on negative rewards
        gate_temperatures: of sapo's gate, for positive and for negative advantages
        beta: how strongly gvpo, copg and apa hold the policy near their anchor
        eta: scale of the reward differences that rebel regresses on; 1 / beta
        anchor: old (the policy that sampled) or reference (the initial policy)
        pairs: all, disjoint, best_worst, or first (only the first two completions)
        accept_above: raft and raft_pp accept completions with a reward above this; null: what a wrong answer can get
            for its format and other parts beside the main one, 0 where they have no weight
        reward_range: lowest and highest reward; null: what the tasks declare
        overlong_cache: dapo lowers the reward over this many tokens before max_length; 0: off
        mask_unfinished: dapo leaves completions that were cut off out of the loss
        discriminator_width: units of gapo's discriminator
        discriminator_rate: learning rate of the discriminator
        discriminator_gradient: score: its part is in the reward; relaxed: it is followed through relaxed samples
        relaxed_temperature: temperature of the relaxed samples; a smaller one is less biased and varies more
        spectral_norm: divide each of its matrices by its largest singular value
        beta_th: draw more prompts while fewer than this share of prompts_per_step can be trained; 0: never draw more
        max_draws: maximum number of draws per step, including the first
    """

    name: str = "gpg"
    form: str | None = None
    f_norm: Literal["one", "std"] | None = None
    f_norm_eps: float | None = None
    alpha: bool | None = None
    alpha_eps: float = 0.0
    reduction: Reduction | None = None
    completions_per_pass: int | None = None
    max_length: int | None = None
    kl_coefficient: float = 0.0
    clip_low: float | None = None
    clip_high: float | None = None
    max_ratio: float | None = None
    gate_temperatures: tuple[float, float] | None = None
    beta: float | None = None
    eta: float | None = None
    anchor: Literal["old", "reference"] | None = None
    pairs: Literal["all", "disjoint", "best_worst", "first"] | None = None
    accept_above: float | None = None
    reward_range: tuple[float, float] | None = None
    overlong_cache: int | None = None
    mask_unfinished: bool | None = None
    discriminator_width: int | None = None
    discriminator_rate: float | None = None
    discriminator_gradient: Literal["score", "relaxed"] | None = None
    relaxed_temperature: float | None = None
    spectral_norm: bool | None = None
    beta_th: float | None = None
    max_draws: int | None = None

    def __post_init__(self) -> None:
        not_negative = ("f_norm_eps", "alpha_eps", "kl_coefficient", "clip_low", "clip_high", "overlong_cache")
        positive = ("beta", "eta", "discriminator_rate", "relaxed_temperature")
        at_least_one = ("completions_per_pass", "max_length", "max_draws", "max_ratio", "discriminator_width")
        for names, is_valid, condition in (
            (not_negative, lambda value: value >= 0, "must not be negative"),
            (positive, lambda value: value > 0, "must be above 0"),
            (at_least_one, lambda value: value >= 1, "must be at least 1"),
            (("gate_temperatures",), lambda pair: min(pair) > 0, "must be above 0"),
            (("reward_range",), lambda pair: pair[0] < pair[1], "must be a lower and a higher number"),
            (("beta_th",), lambda value: 0 <= value <= 1, "must be in [0, 1]"),
        ):
            for name in names:
                value = getattr(self, name)
                _require(value is None or is_valid(value), f"objective.{name} {condition}")


@dataclass(frozen=True)
class UpdateConfig:
    """The optimizer step.

    Args:
        learning_rate: peak learning rate
        learning_rates: peak learning rates by part (vision, projector, text), in place of learning_rate
        schedule: learning rate schedule over the run, one of transformers' schedules
        schedule_options: options of the schedule, e.g. {power: 2} for polynomial or {num_cycles: 3}
        warmup_steps: steps of linear warm-up
        min_learning_rate_ratio: the schedule ends at this fraction of the peak
        optimizer: adamw: torch's fused kernel on CUDA, and where a layout offloads it; adamw_fused: that kernel on a
            CPU too; adamw_8bit: 8-bit state (bitsandbytes, CUDA)
        betas: AdamW's betas
        weight_decay: AdamW's decoupled weight decay
        max_grad_norm: gradients are clipped to this norm
        max_skips: the run stops after this many skipped steps in a row; a step is skipped if its gradient is not finite
        epochs_per_rollout: how often each sampled group is trained
        groups_per_update: groups per optimizer step, over all ranks; null: all groups of the rollout
        pack: one row for a group, its prompt once; false: one row per completion, each with the prompt, as a way out
            where the self-check of packed rows fails
        tokens_per_micro_batch: speed knob; maximum number of padded tokens per forward pass; on CUDA the default stands
            for what fits (docs/scale.md)
        patches_per_micro_batch: speed knob; maximum number of vision patches per forward pass
    """

    learning_rate: float = 1.0e-6
    learning_rates: dict[str, float] = field(default_factory=dict)
    schedule: Literal["linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt", "constant"] = "linear"
    schedule_options: dict[str, float] = field(default_factory=dict)
    warmup_steps: int = 0
    min_learning_rate_ratio: float = 0.0
    optimizer: Literal["adamw", "adamw_fused", "adamw_8bit"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    max_skips: int = 3
    epochs_per_rollout: int = 1
    groups_per_update: int | None = None
    pack: bool = True
    tokens_per_micro_batch: int = 8192
    patches_per_micro_batch: int = 65536

    def __post_init__(self) -> None:
        _require(self.learning_rate > 0, "update.learning_rate must be positive")
        unknown = sorted(set(self.learning_rates) - set(PARTS))
        _require(not unknown, f"update.learning_rates: {unknown} is not part of the model; the parts are {list(PARTS)}")
        positive = all(rate > 0 for rate in self.learning_rates.values())
        _require(positive, "update.learning_rates must be positive; to leave a part untrained, use model.freeze")
        _require(0 <= self.min_learning_rate_ratio <= 1, "update.min_learning_rate_ratio must be in [0, 1]")
        _require(self.max_grad_norm > 0, "update.max_grad_norm must be positive")
        _require(self.max_skips >= 1, "update.max_skips must be at least 1")
        _require(self.warmup_steps >= 0, "update.warmup_steps must not be negative")
        _require(all(0 <= beta < 1 for beta in self.betas), "update.betas must be in [0, 1)")
        _require(self.weight_decay >= 0, "update.weight_decay must not be negative")
        _require(self.epochs_per_rollout >= 1, "update.epochs_per_rollout must be at least 1")
        whole = self.groups_per_update is None or self.groups_per_update >= 1
        _require(whole, "update.groups_per_update must be at least 1, or null for all groups")
        _require(self.tokens_per_micro_batch >= 1, "update.tokens_per_micro_batch must be at least 1")
        _require(self.patches_per_micro_batch >= 1, "update.patches_per_micro_batch must be at least 1")

    @property
    def reuses_rollouts(self) -> bool:
        """Whether a rollout is followed by more than one optimizer step, so that later ones are off-policy."""
        return self.epochs_per_rollout > 1 or self.groups_per_update is not None


@dataclass(frozen=True)
class EvaluationConfig:
    """How validation and ``gpg-vl eval`` sample.

    Args:
        num_samples: completions per prompt
        temperature: sampling temperature; 0: always the most likely token
        max_new_tokens: maximum length of a completion in tokens; null: rollout.max_new_tokens
        limit: evaluate only the first N rows of each source; null: all
    """

    num_samples: int = 1
    temperature: float = 0.0
    max_new_tokens: int | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        _require(self.num_samples >= 1, "evaluation.num_samples must be at least 1")
        _require(self.temperature >= 0, "evaluation.temperature must not be negative")
        _require(
            self.max_new_tokens is None or self.max_new_tokens >= 1, "evaluation.max_new_tokens must be at least 1"
        )
        _require(self.limit is None or self.limit >= 1, "evaluation.limit must be at least 1, or null for all rows")
        once = self.temperature > 0 or self.num_samples == 1
        _require(once, "evaluation.num_samples above 1 needs a temperature above 0: greedy samples are identical")


TRACKERS = ("tensorboard", "wandb", "trackio", "mlflow", "swanlab")


@dataclass(frozen=True)
class RecordConfig:
    """The groups that a run keeps for ``gpg-vl report``: pictures, completions, boxes, rewards, advantages.

    Args:
        every: steps between two that are recorded, besides the first one; 0: none
        max_megabytes: size of the record; beyond it, every second recorded step is given up
    """

    every: int = 10
    max_megabytes: int = 200

    def __post_init__(self) -> None:
        _require(self.every >= 0, "run.record.every must not be negative")
        _require(self.max_megabytes >= 1, "run.record.max_megabytes must be at least 1")


@dataclass(frozen=True)
class RunConfig:
    """The run.

    Args:
        steps: number of optimizer steps
        output_dir: folder for everything the run writes
        save_every: steps between checkpoints; the last step is always saved
        save_total_limit: number of newest checkpoints to keep, plus the best-scoring one and those that were saved
            under null; null: keep all
        eval_every: steps between validations on data.eval; 0: never
        seed: determines the prompts, the samples and the initial state of the run
        deterministic: only operations that give the same bits each time on one device, which takes longer; a run that
            needs another one ends (docs/algorithm.md)
        hang_timeout_s: seconds without progress in an update or a rollout, after which a rank counts as hung and all
            ranks end; raise it where a single micro-batch takes minutes
        resume: auto: continue the run found in output_dir; never: refuse to touch it
        trackers: trackers to write to in addition to metrics.jsonl: tensorboard, wandb, trackio, mlflow, swanlab; only
            tensorboard comes with the kit (docs/metrics.md)
        record: the groups that are kept for the report
        stop_when: validation score per task; a task that reaches it leaves the mixture, and the run ends when all have
        cooldown_steps: number of final steps on all tasks, in which the learning rate falls to 0
    """

    steps: int = 500
    output_dir: str = "runs/run"
    save_every: int = 100
    save_total_limit: int | None = 3
    eval_every: int = 100
    seed: int = 42
    deterministic: bool = False
    hang_timeout_s: float = 600.0
    resume: Literal["auto", "never"] = "auto"
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])
    record: RecordConfig = field(default_factory=RecordConfig)
    stop_when: dict[str, float] = field(default_factory=dict)
    cooldown_steps: int = 0

    def __post_init__(self) -> None:
        _require(self.steps >= 1, "run.steps must be at least 1")
        _require(self.save_every >= 1, "run.save_every must be at least 1")
        _require(self.save_total_limit is None or self.save_total_limit >= 1, "run.save_total_limit must be at least 1")
        _require(self.eval_every >= 0, "run.eval_every must not be negative")
        _require(self.hang_timeout_s > 0, "run.hang_timeout_s must be above 0")
        _require(-(2**63) <= self.seed < 2**64, "run.seed must have at most 64 bits: from -2^63 to 2^64 - 1")
        _require(0 <= self.cooldown_steps <= self.steps, "run.cooldown_steps must be between 0 and run.steps")
        unknown = sorted(set(self.trackers) - set(TRACKERS))
        _require(not unknown, f"run.trackers: unknown tracker {unknown}; the trackers are {list(TRACKERS)}")
        needs_eval = not self.stop_when or self.eval_every > 0
        _require(needs_eval, "run.stop_when needs validation; set run.eval_every above 0")


@dataclass(frozen=True)
class Recipe:
    """One experiment."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    rewards: RewardsConfig = field(default_factory=RewardsConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    update: UpdateConfig = field(default_factory=UpdateConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    run: RunConfig = field(default_factory=RunConfig)
    task: str | None = None  # of every row
    tasks: list[str] = field(default_factory=list)  # of the user's own, FILE.py:CLASS, those that rows may name

    def __post_init__(self) -> None:
        trained = self.model.trained_parts
        idle = sorted(set(self.update.learning_rates) - set(trained))
        _require(not idle, f"update.learning_rates: {idle} is not trained in this run, only {trained} is; remove it")
        for section, keys in asdict(self).items():
            for key, value in keys.items() if isinstance(keys, dict) and section != "data" else ():
                _refuse_not_finite(f"{section}.{key}", value)
        refresh, epochs = self.rollout.refresh, self.update.epochs_per_rollout
        never = "rollout.refresh.max_uses must be above update.epochs_per_rollout, or no rollout is used again"
        _require(refresh is None or refresh.max_uses > epochs, never)
        first = "rollout.importance weighs the first update of a rollout; set update.epochs_per_rollout to 1, and "
        single = self.rollout.importance == "none" or not self.reuses_rollouts
        _require(single, f"{first}update.groups_per_update and rollout.refresh to null")

    @property
    def reuses_rollouts(self) -> bool:
        """Whether a rollout may be followed by more than one optimizer step, so that later ones are off-policy."""
        return self.update.reuses_rollouts or self.rollout.refresh is not None

    def to_plain(self) -> dict[str, Any]:
        """The recipe as YAML and JSON hold it."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain
