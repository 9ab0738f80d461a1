"""vLLM behind a ``Service``: requests -> completions with their log-probs. Runs where vllm is installed, nowhere else.

vLLM expands each image's single token itself; the expanded prompt has to be the one that the update sees.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from gpg_vl.errors import first_line, is_out_of_memory
from gpg_vl.processes.pulse import PULSE
from gpg_vl.rollout.served.fields import BadMessage
from gpg_vl.rollout.served.messages import AnsweredCompletion, AnsweredGroup, AskedPrompt, Request
from gpg_vl.rollout.served.vllm_worker import keep_work_space, repack_head, restore_work_space, take_all

_END_OF_REASON = " [type="  # in what pydantic says
_NOT_RESIZED = {"do_resize": False}
_ON_A_CPU = {"enable_chunked_prefill": False}
"""A CPU's generators cannot go back, as vLLM has those of prompts do that it reads in parts."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What a server's command line says of its engine."""

    dtype: str = "bfloat16"
    max_model_len: int | None = None
    max_images: int = 8  # of a prompt
    gpu_memory: float = 0.85
    tensor_parallel: int = 1
    eager: bool = False
    sleeps: bool = False  # whether it begins asleep and frees its memory for a while, where vLLM can
    joins_ranks: bool = False  # whether it runs in one of several ranks that have found each other
    ranks_timeout_s: float = 0.0  # that they wait for one of them as they start


NO_DEVICE = "vllm finds no device that it was built for"


class NoDevice(ValueError):
    """There is no GPU, and this vllm is not the one for CPUs; one line."""


class VllmBackend:
    def __init__(self, model: str, options: EngineOptions):
        """
        Args:
            model: folder, or name on the hub

        Raises:
            NoDevice: it has nothing to run on
        """
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # it ends with this process, and takes weights from it
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        import vllm
        from vllm.exceptions import VLLMClientError
        from vllm.platforms import current_platform

        if current_platform.is_unspecified():
            raise NoDevice(f"{NO_DEVICE}; without a GPU, use the environment of `make setup-vllm`")
        self._client_error = VLLMClientError
        self._vllm = vllm
        self._options = options
        self._sleeps = options.sleeps and current_platform.is_sleep_mode_available()
        self._llm = vllm.LLM(
            model=model,
            dtype=options.dtype,
            max_model_len=options.max_model_len,
            limit_mm_per_prompt={"image": options.max_images, "video": 0},
            gpu_memory_utilization=options.gpu_memory,
            tensor_parallel_size=options.tensor_parallel,
            enforce_eager=options.eager,
            logprobs_mode="processed_logprobs",  # of the distribution that is sampled from
            generation_config="vllm",  # none of the model folder's sampling defaults
            enable_prefix_caching=True,
            trust_remote_code=False,
            seed=0,
            enable_sleep_mode=self._sleeps,
            **_ON_A_CPU if current_platform.is_cpu() else {},
            **_among_ranks(options.ranks_timeout_s) if options.joins_ranks else {},
        )
        if options.sleeps:
            self._leave_ranks_alone()
        self._num_steps = 0
        self._count_steps(self._llm.llm_engine)

    def _leave_ranks_alone(self) -> None:
        """At the end of the process vLLM would take the groups of the run's ranks apart, which are gone by then."""
        finalizer = getattr(self._llm.llm_engine.engine_core, "_finalizer", None)
        if finalizer is not None:
            finalizer.detach()

    def _count_steps(self, engine: Any) -> None:
        """Whoever watches a training process sees by them that it goes on."""
        take_step = engine.step

        def step() -> Any:
            PULSE.beat()
            self._num_steps += 1
            return take_step()

        engine.step = step

    def describe(self) -> Mapping[str, str | int]:
        length: int = self._llm.llm_engine.model_config.max_model_len
        kind = {"engine": f"vllm {self._vllm.__version__}", "dtype": self._options.dtype}
        return {**kind, "context_length": length, "max_images": self._options.max_images}

    def sleep(self) -> None:
        """See ``SleepingBackend.sleep``. Where vLLM cannot, as on a CPU, it holds what it has."""
        if self._sleeps:
            self._llm.collective_rpc(keep_work_space)
            self._llm.sleep(level=2)

    def wake(self) -> None:
        """See ``SleepingBackend.wake``."""
        if self._sleeps:
            self._llm.wake_up()
            self._llm.collective_rpc(restore_work_space)

    def shut_down(self) -> None:
        """See ``SleepingBackend.shut_down``. Its own shutdown would also take the ranks of the run apart."""
        self._llm.collective_rpc("shutdown")

    def load_weights(self, folder: Path) -> None:
        """See ``Backend.load_weights``."""
        with self._named_as_before():
            self._reload({"weights_path": str(folder)})

    def take_weights(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        """See ``SleepingBackend.take_weights``. vLLM copies those of a layer when it has the last of them."""
        self._reload({"weights_iterator": weights})

    def _reload(self, source: Mapping[str, Any]) -> None:
        """Keys and values, and images, were computed with the old weights.

        Raises:
            RuntimeError: vLLM would keep some of them
        """
        self._llm.collective_rpc(take_all, args=(dict(source),))
        self._llm.collective_rpc(repack_head)
        self._forget_prefixes()
        self._forget_images()

    @contextmanager
    def _named_as_before(self) -> Iterator[None]:
        """vLLM names its model after the folder of the weights, and would look there for the image processor."""
        config = self._llm.llm_engine.model_config
        kept = config.model, config.model_weights, config.revision
        try:
            yield
        finally:
            config.model, config.model_weights, config.revision = kept

    def _forget_prefixes(self) -> None:
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("the engine keeps keys and values of the old weights")

    def _forget_images(self) -> None:
        """Their features, and the pixels that both sides of the engine keep: else one counts on what the other lost."""
        self._llm.llm_engine.reset_encoder_cache()
        self._llm.llm_engine.reset_mm_cache()

    def generate(self, request: Request) -> list[AnsweredGroup]:
        """See ``Backend.generate``. An error before its first step leaves nothing in vLLM of what it was asked for."""
        prompts, num_steps = list(map(self._prompt, request.prompts)), self._num_steps
        try:
            sampling = [self._sampling(request, prompt.seed) for prompt in request.prompts]
            outputs = self._llm.generate(prompts, sampling, use_tqdm=False)
        except (self._client_error, ValueError) as error:
            if self._num_steps > num_steps:
                raise
            self._forget_images()  # one side has those of the refused prompt, and would count on the other having them
            raise BadMessage(f"vllm refuses it: {first_line(error)}") from error
        times = request.group_size // sampling[0].n if sampling else 1
        pairs = zip(request.prompts, outputs, strict=True)
        return [AnsweredGroup(_checked_length(asked, each), _completions(each) * times) for asked, each in pairs]

    def _prompt(self, prompt: AskedPrompt) -> dict[str, Any]:
        if not prompt.pictures:
            return {"prompt_token_ids": list(prompt.token_ids)}
        marker = self._llm.llm_engine.model_config.hf_config.image_token_id
        if any(prompt.token_ids[first] != marker for first, _ in prompt.runs):  # vLLM would not come back from it
            raise BadMessage(f"an image stands where the prompt does not have the model's image token, {marker}")
        images = [Image.frombytes("RGB", (each.width, each.height), each.rgb) for each in prompt.pictures]
        return {
            "prompt_token_ids": prompt.short_token_ids,
            "multi_modal_data": {"image": images},
            "mm_processor_kwargs": _NOT_RESIZED,
        }

    def _sampling(self, request: Request, seed: int) -> Any:
        how = request.sampling
        return self._vllm.SamplingParams(
            n=request.group_size if how.temperature else 1,  # the others would be the same
            max_tokens=how.max_new_tokens,
            temperature=how.temperature,
            top_p=how.top_p,
            top_k=how.top_k,
            seed=seed,
            logprobs=0,  # that of the sampled token
            ignore_eos=True,  # the run says what ends a completion
            stop_token_ids=list(request.end_token_ids),
            logit_bias=dict.fromkeys(request.banned_token_ids, -math.inf) or None,
            detokenize=False,
        )


def start_backend(model: str, options: EngineOptions, memory_keys: str) -> VllmBackend:
    """
    Args: see ``VllmBackend``
        memory_keys: what its memory depends on, as the user sets it

    Raises:
        ValueError: it has no device, runs out of memory, cannot run this model, or does not start for another reason
    """
    try:
        backend = VllmBackend(model, options)
        if options.sleeps:
            backend.sleep()
        return backend
    except NoDevice:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise ValueError(
                f"vllm runs out of memory as it starts ({first_line(error)}); lower {memory_keys}"
            ) from error
        raise ValueError(
            f"vllm does not start: {_reason(error)}; where it lacks memory, lower {memory_keys}"
        ) from error


def _reason(error: Exception) -> str:
    """Of an error as it starts. Where pydantic has checked an option, which options are wrong comes first."""
    reasons = (line.split(_END_OF_REASON)[0] for line in str(error).splitlines() if _END_OF_REASON in line)
    return next(reasons, first_line(error)).strip().removeprefix("Value error, ")


def _among_ranks(timeout_s: float) -> dict[str, Any]:
    return {
        "distributed_executor_backend": "external_launcher",
        "cpu_distributed_timeout_seconds": math.ceil(timeout_s),
    }


def _checked_length(asked: AskedPrompt, output: Any) -> int:
    """
    Raises:
        BadMessage: the engine has read another prompt than the one that the update sees
    """
    read: Sequence[int] = output.prompt_token_ids
    if tuple(read) != asked.token_ids:
        raise BadMessage(f"the engine reads a prompt of {len(read)} tokens, not the run's of {len(asked.token_ids)}")
    return len(read)


def _completions(output: Any) -> tuple[AnsweredCompletion, ...]:
    in_order = sorted(output.outputs, key=lambda each: each.index)
    return tuple(AnsweredCompletion(tuple(each.token_ids), _log_probs(each)) for each in in_order)


def _log_probs(completion: Any) -> tuple[float, ...]:
    pairs = zip(completion.token_ids, completion.logprobs, strict=True)
    return tuple(float(of_step[token].logprob) for token, of_step in pairs)
