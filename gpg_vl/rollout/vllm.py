"""Prompt -> RolloutGroup: the engine ``vllm``, which asks the servers of ``gpg-vl serve-rollouts`` for completions.

With ``rollout.vllm.mode: colocate`` it asks an engine in this process instead (``served/local``), in the same words.

The servers get the tokens and the pixels that the update sees, and the weights through a shared folder (an engine in
this process: from memory) before they are asked; what each samples first is compared with the policy. Weights that
ranks share are whole while they are handed over or compared, or for as long as ``hf`` may have to take over. Noise is
the servers': a seed for each prompt and the number of a completion decide it, up to the rounding of what is computed
together. Image features are not kept; the update computes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from accelerate import Accelerator

from gpg_vl.config import RolloutConfig, VllmConfig
from gpg_vl.models.adapter import Adapter
from gpg_vl.processes.collectives import gather_object
from gpg_vl.processes.ranks import is_main_rank, own_rank, run_on_main, run_together
from gpg_vl.processes.sharding import sharding_of
from gpg_vl.processes.whole_weights import weights_in_turn, weights_there, whole_weights
from gpg_vl.records import Completion, Prompt, RolloutGroup
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.rollout.served.asking import ask_prompt, deal
from gpg_vl.rollout.served.engine_weights import (
    Fingerprint,
    GatheredInTurn,
    HeldWeights,
    There,
    fingerprint,
    named_nowhere,
    named_weights,
    save_weights,
    write_weights,
)
from gpg_vl.rollout.served.local import LocalEngine, start_local_engine
from gpg_vl.rollout.served.messages import AnsweredCompletion, AnsweredGroup, Request
from gpg_vl.rollout.served.parity import Comparison
from gpg_vl.rollout.served.pool import Exchanges, ServerPool, find_servers
from gpg_vl.rollout.served.shared_folder import Published
from gpg_vl.screen import say


class NoServer(ValueError):
    """No server has answered, however often it was asked; one line."""


def _connect(adapter: Adapter, config: VllmConfig, comparison: Comparison) -> ServerPool | LocalEngine:
    """
    Raises:
        ValueError: the shared folder has no token of a server
    """
    rank, num_ranks = own_rank()
    if config.mode == "colocate":
        return LocalEngine(start_local_engine(adapter, config, num_ranks), adapter, comparison)
    return find_servers(adapter, config, comparison, rank)


@dataclass(frozen=True, slots=True)
class _Begun:
    """Prompts that servers complete while the policy is trained."""

    prompts: Sequence[Prompt]
    exchanges: Exchanges[list[AnsweredGroup] | None]
    read: Callable[[Prompt, AnsweredGroup], RolloutGroup]


class VllmEngine:
    """Completions from servers; from the policy itself where none answers and the recipe says so."""

    def __init__(self, adapter: Adapter, config: RolloutConfig, accelerator: Accelerator | None = None):
        """
        Raises:
            ValueError: the shared folder has no token
        """
        self._adapter = adapter
        self._config = config.vllm
        self._accelerator = accelerator
        self._comparison = Comparison(adapter, self._config)
        self._servers = _connect(adapter, self._config, self._comparison)
        self._hf = HfEngine(adapter, config.tokens_per_batch, accelerator)
        self._published = Published(Path(self._config.weights))
        self._fingerprint: Fingerprint | None = None
        self._version = ""
        # each version is compared where a step's gap says nothing: of other versions, or of another distribution
        self._compares_again = bool(config.ahead) or config.top_p < 1 or config.top_k > 0
        self._begun: _Begun | None = None

    @contextmanager
    def sync_weights(self) -> Iterator[None]:
        """As ``RolloutEngine.sync_weights`` has it: the first rank publishes the weights if they are new.

        An engine in this process has lost its own when it slept, and takes them each time. Where nobody needs whole
        ones, ranks that share them gather one block after the other.
        """
        if self._begun is not None:  # on no rank or on all; what it has failed with is raised where it is waited for
            run_together(self._begun.exchanges.wait)
        with ExitStack() as gathered, self._ready(gathered):
            needs_policy = self._needs_policy()
            if not needs_policy:
                gathered.close()  # on all ranks together
            self._comparison.last = None
            yield
            if needs_policy and self._accelerator is not None and not self._compares_again:
                self._compare_idle()

    def _ready(self, gathered: ExitStack) -> AbstractContextManager[None]:
        """Within, engines have the weights as they are now. All ranks together.

        Args:
            gathered: for what the weights are gathered in
        """
        accelerator = self._accelerator
        if accelerator is not None and self._can_take_in_turn(accelerator):
            gathered.enter_context(weights_in_turn(accelerator))
            there = partial(weights_there, accelerator)
            if isinstance(self._servers, LocalEngine):
                self._set_version(run_on_main(self._servers.name_version))
                return self._servers.ready(self._version, there)
            self._set_version(self._publish_in_turn(there))
            return self._servers.ready(self._version)
        if accelerator is not None:
            gathered.enter_context(whole_weights(accelerator))
        self._set_version(run_on_main(self._publish))
        return self._servers.ready(self._version)

    def _can_take_in_turn(self, accelerator: Accelerator) -> bool:
        """Whether no rank runs the policy, to compare it or in place of an engine. All ranks together.

        Weights that every rank has are published as they are.
        """
        is_shared = isinstance(self._servers, LocalEngine) or not sharding_of(accelerator).keeps_whole_weights
        return is_shared and not self._compares_again and not self._needs_policy()

    def _compare_idle(self) -> None:
        """Ranks that had no prompts compare their engines by another's prompt; else all ranks would gather whole
        weights for them in every draw. All ranks together.
        """
        rank, last = own_rank()[0], self._comparison.last
        is_idle = last is None and self._comparison.num_known < len(self._servers)
        found = gather_object([(last is not None, is_idle)])
        senders = [number for number, (has_drawn, _) in enumerate(found) if has_drawn]
        if not senders or not any(lacks for _, lacks in found):
            return
        given = gather_object([last if rank == senders[0] else None])[senders[0]]
        assert given is not None
        run_together(lambda: self._compare(*given) if is_idle else None)

    def _compare(self, request: Request, prompt: Prompt) -> None:
        self._comparison.begin([request], [prompt])
        self._servers.generate([])
        self._comparison.end()

    def _set_version(self, version: str) -> None:
        if version != self._version and self._compares_again:
            self._comparison.forget()
        self._version = version

    def _needs_policy(self) -> bool:
        """Whether some rank may run it while servers sample. All ranks together."""
        are_known = self._comparison.num_known == len(self._servers)
        return not all(gather_object([are_known])) or self._config.on_failure == "hf"

    def _publish(self) -> str:
        if self._fingerprint is None:
            self._servers.check()
        return self._publish_if_new(fingerprint(self._adapter), partial(write_weights, self._adapter))

    def _publish_in_turn(self, there: There) -> str:
        """The first rank has each block that all ranks gather in the host's memory, before the next one is gathered."""
        held = HeldWeights()
        if is_main_rank():
            GatheredInTurn(named_weights(self._adapter, there)).give(held.take)
        else:
            GatheredInTurn(named_nowhere(self._adapter, there)).give(GatheredInTurn.read_on)
        return run_on_main(lambda: self._publish_if_new(held.fingerprint, partial(save_weights, held.tensors)))

    def _publish_if_new(self, found: Fingerprint, write: Callable[[Path], None]) -> str:
        if found == self._fingerprint:
            return self._version
        version = self._publish_new(write)
        self._fingerprint = found
        return version

    def _publish_new(self, write: Callable[[Path], None]) -> str:
        if isinstance(self._servers, LocalEngine):
            return self._servers.name_version()
        version = self._published.publish(write)
        self._servers.load(version)
        return version

    def generate(
        self,
        prompts: Sequence[Prompt],
        group_size: int,
        sampling: Sampling,
        seeds: Sequence[tuple[object, ...]],
        keep_log_probs: bool = False,
    ) -> list[RolloutGroup]:
        """As ``RolloutEngine.generate`` has it.

        Raises:
            ValueError: no server answers and ``on_failure`` is ``stop``, or a server refuses a prompt
            OtherPolicy: what a server that is new samples first is not from the policy
        """
        if not prompts:
            return []
        parts = self._requests(prompts, group_size, sampling, seeds)
        self._comparison.begin(parts, prompts)
        answers = self._servers.generate(parts)
        self._comparison.end()
        generate = partial(self._hf.generate, group_size=group_size, sampling=sampling, keep_log_probs=keep_log_probs)
        groups: list[RolloutGroup] = []
        for part, answer in zip(parts, answers, strict=True):
            here = slice(len(groups), len(groups) + len(part.prompts))
            if answer is None:
                self._refuse_failure(len(part.prompts))
                groups += generate(prompts[here], seeds=seeds[here])
            else:
                pairs = zip(prompts[here], answer, strict=True)
                groups += [self._group(prompt, given, sampling, keep_log_probs) for prompt, given in pairs]
        return groups

    def _requests(
        self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling, seeds: Sequence[tuple[object, ...]]
    ) -> list[Request]:
        asked = tuple(ask_prompt(self._adapter, *each) for each in zip(prompts, seeds, strict=True))
        ends, banned = self._adapter.end_token_ids, self._adapter.banned_token_ids
        return deal(Request(self._version, asked, group_size, sampling, ends, banned), len(self._servers))

    def begin(
        self,
        prompts: Sequence[Prompt],
        group_size: int,
        sampling: Sampling,
        seeds: Sequence[tuple[object, ...]],
        keep_log_probs: bool = False,
    ) -> None:
        """See ``AheadEngine.begin``. Only servers that are compared before the policy changes are asked."""
        assert isinstance(self._servers, ServerPool) and self._begun is None
        parts = self._requests(prompts, group_size, sampling, seeds) if prompts else []
        if parts:
            self._comparison.begin(parts, prompts)
            self._servers.meet()
            self._comparison.end()
        read = partial(self._group, sampling=sampling, keep_log_probs=keep_log_probs)
        self._begun = _Begun(prompts, self._servers.begin(parts), read)

    def wait(self) -> bool:
        """See ``AheadEngine.wait``."""
        assert self._begun is not None
        return None not in self._begun.exchanges.results()

    def take(self) -> list[RolloutGroup]:
        """See ``AheadEngine.take``."""
        assert self._begun is not None
        begun, self._begun = self._begun, None
        answered = [group for part in begun.exchanges.results() for group in part or ()]
        return [begun.read(*each) for each in zip(begun.prompts, answered, strict=True)]

    def drop(self) -> None:
        """See ``AheadEngine.drop``."""
        if self._begun is not None:
            self._begun.exchanges.end()
        self._begun = None

    def _refuse_failure(self, num_prompts: int) -> None:
        """
        Raises:
            NoServer: ``on_failure`` is ``stop``
        """
        if self._config.on_failure == "stop":
            raise NoServer(self._describe_failure() + ", or set rollout.vllm.on_failure to hf")
        say(f"rollout: no server answers; the engine hf completes {num_prompts} prompts")

    def _describe_failure(self) -> str:
        if self._config.mode == "colocate":
            return "the vllm of this process has failed, as it says above; for memory, lower rollout.vllm.gpu_memory"
        return f"no rollout server answers ({', '.join(self._config.servers)}); start gpg-vl serve-rollouts again"

    def _group(self, prompt: Prompt, given: AnsweredGroup, sampling: Sampling, keep_log_probs: bool) -> RolloutGroup:
        rows = [self._completion(each, sampling, keep_log_probs) for each in given.completions]
        return RolloutGroup(prompt, tuple(rows))

    def _completion(self, given: AnsweredCompletion, sampling: Sampling, keep_log_probs: bool) -> Completion:
        ids = given.token_ids
        log_probs = given.log_probs if sampling.temperature else (0.0,) * len(ids)  # the choice is deterministic then
        finished = ids[-1] in self._adapter.end_token_ids
        return Completion(ids, self._adapter.decode(ids), finished, log_probs if keep_log_probs else None)
