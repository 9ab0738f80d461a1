"""The part ``discriminator`` of the reward: how gold a completion looks to a network that learns along with the run."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from gpg_vl.config import Recipe
from gpg_vl.learned.discriminator import Discriminator, discriminator_loss
from gpg_vl.learned.features import read_prompts
from gpg_vl.learned.part import LearnedPart
from gpg_vl.models.adapter import Adapter
from gpg_vl.objectives.base import Objective, given
from gpg_vl.processes.collectives import gather_object
from gpg_vl.processes.ranks import run_together
from gpg_vl.processes.whole_weights import whole_weights
from gpg_vl.prompts.gold import GoldCompletions
from gpg_vl.records import Prompt, ScoredGroup
from gpg_vl.update.reference import InitialModel


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt with its gold completion and one that was sampled."""

    prompt: Tensor  # [H]
    gold: tuple[int, ...]
    sampled: tuple[int, ...]


def refuse_others(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Refuses what ``GoldLikeness.state`` of this network cannot have given, before its first step or after one.

    Raises:
        ValueError: a name is missing or unknown, or a shape is another
    """
    parameters = dict(network.named_parameters())
    of_network = {f"network/{name}": each.shape for name, each in parameters.items()}
    moments = {
        f"optimizer/{number}/{entry}": each.shape
        for number, each in enumerate(parameters.values())
        for entry in ("exp_avg", "exp_avg_sq")
    }
    steps = {f"optimizer/{number}/step": torch.Size() for number in range(len(parameters))}
    started = {name.split("/")[1] for name in state if name.startswith("optimizer/")}  # those that had a gradient
    of_optimizer = {name: each for name, each in (moments | steps).items() if name.split("/")[1] in started}
    if {name: each.shape for name, each in state.items()} != of_network | of_optimizer:
        raise ValueError("names or shapes are those of another network")


class GoldLikeness(LearnedPart):
    """Scores the groups of a step as it stands, sigmoid(D), then takes one step of its own on them."""

    name = "discriminator"

    def __init__(
        self,
        recipe: Recipe,
        objective: Objective,
        initial: InitialModel,
        gold: GoldCompletions,
        accelerator: Accelerator,
    ):
        super().__init__(accelerator)
        config = objective.config
        self.is_in_total = config.discriminator_gradient == "score"
        self._recipe = recipe
        self._initial = initial
        self._gold = gold
        self._network = Discriminator(
            initial.hidden_size, given(config.discriminator_width), given(config.spectral_norm), recipe.run.seed
        )
        self._optimizer = torch.optim.Adam(self._network.parameters(), lr=given(config.discriminator_rate))
        self._prompts: dict[int, Tensor] = {}  # states of the step's prompts, by id()

    def learn(self, step: int, groups: Sequence[ScoredGroup]) -> dict[str, Tensor]:
        """One step on the gold and one sampled completion of each group of all ranks. All ranks together.

        Returns:
            the state after it, for ``commit``; until then the network stays as it was
        """
        with whole_weights(self._accelerator):
            examples = gather_object(run_together(lambda: [self._example(step, group) for group in groups]))
            updated = run_together(lambda: [self._update(examples)] if self._accelerator.is_main_process else [])
        return gather_object(updated)[0]

    def commit(self, state: Mapping[str, Tensor]) -> None:
        """Goes over to the state that ``learn`` returned; the step's prompts are done with."""
        self.restore(state)
        self._prompts = {}

    def prompt_state(self, prompt: Prompt) -> Tensor:
        """[H], of a prompt that was measured in this step."""
        return self._prompts[id(prompt)]

    @contextmanager
    def judging(self, device: torch.device) -> Iterator[tuple[Discriminator, Tensor]]:
        """Within, the network as it scores, and the embedding [V, H] of the initial model, on a device."""
        with self._initial.running() as adapter:
            table = adapter.model.get_input_embeddings().weight.detach().to(device).float()
        network = copy.deepcopy(self._network).requires_grad_(requires_grad=False)
        yield network.to(device), table

    def state(self) -> dict[str, Tensor]:
        """Network and optimizer, by name."""
        found = {f"network/{name}": each.detach() for name, each in self._network.named_parameters()}
        for number, entries in self._optimizer.state_dict()["state"].items():
            found |= {f"optimizer/{number}/{name}": each for name, each in entries.items()}
        return {name: each.clone() for name, each in found.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """
        Raises:
            ValueError: it is not the state of such a network
        """
        refuse_others(self._network, state)
        entries: dict[int, dict[str, Tensor]] = {}
        for key, each in state.items():
            kind, _, name = key.partition("/")
            if kind == "network":
                with torch.no_grad():
                    self._network.get_parameter(name).copy_(each)
            else:
                number, _, entry = name.partition("/")
                entries.setdefault(int(number), {})[entry] = each.clone()
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": entries})

    @torch.no_grad()
    def _measure(self, groups: Sequence[ScoredGroup]) -> list[list[float]]:
        """Keeps what ``learn`` needs of the prompts."""
        if not groups:
            return []
        with self._initial.running() as adapter:
            states = read_prompts(adapter, groups, self._recipe.update)
            self._prompts |= {id(group.prompt): state for group, state in zip(groups, states, strict=True)}
            logits = [
                self._judge(adapter, state.expand(len(group.completions), -1), [c.token_ids for c in group.completions])
                for group, state in zip(groups, states, strict=True)
            ]
        return [torch.sigmoid(each).tolist() for each in logits]

    def _judge(self, adapter: Adapter, prompts: Tensor, rows: Sequence[Sequence[int]]) -> Tensor:
        """Logits [N] of completions."""
        lengths = torch.tensor([len(row) for row in rows])
        padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        with torch.no_grad():
            tokens = adapter.model.get_input_embeddings()(padded.to(adapter.device)).float().cpu()
        logits: Tensor = self._network(prompts, tokens, lengths)
        return logits

    def _example(self, step: int, group: ScoredGroup) -> Example:
        prompt = group.prompt
        gold = self._gold.write(prompt.sample, prompt.text, prompt.views)
        sampled = group.completions[step % len(group.completions)]
        return Example(self._prompts[id(prompt)], gold.token_ids, sampled.token_ids)

    def _update(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        before = self.state()
        if not examples:
            return before
        prompts = torch.stack([example.prompt for example in examples]).repeat(2, 1)
        rows = [*(example.gold for example in examples), *(example.sampled for example in examples)]
        labels = torch.tensor([1.0] * len(examples) + [0.0] * len(examples))
        with self._initial.running() as adapter:
            logits = self._judge(adapter, prompts, rows)
        self._optimizer.zero_grad()
        discriminator_loss(logits, labels).backward()
        self._optimizer.step()
        after = self.state()
        self.restore(before)
        return after
