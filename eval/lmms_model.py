"""lmms-eval on a checkpoint of the kit: ``python -m eval.lmms_model --model gpg_vl ...``, which ``eval/lmms.sh`` calls.

lmms-eval's own classes change the prompt in ways of their own (a system message, other limits on pixels, reasoning
that is cut out). This one shows the model what the checkpoint's own processor and chat template make of a row, and
decodes to the checkpoint's own end tokens, in plain transformers. It runs in lmms-eval's environment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lmms_eval.api.model import lmms
from lmms_eval.protocol import ChatMessages
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils.logging import tqdm

from eval.lmms_scoring import encode_conversation

NAME = "gpg_vl"
_SETTINGS = ("max_new_tokens", "do_sample", "temperature", "top_p", "num_beams")
"""What a task may say of the decoding. Where a text ends is the checkpoint's matter."""


class Checkpoint(lmms):
    """Any image-text-to-text model of transformers, one prompt at a time."""

    is_simple = False

    def __init__(self, pretrained: str, device: str | None = None, dtype: str = "auto", batch_size: int | str = 1):
        """
        Args:
            pretrained: folder of the checkpoint
            device: None: the GPU if there is one
            dtype: of the weights; auto: the folder's
            batch_size: lmms-eval always passes one; has no effect
        """
        super().__init__()
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        model_class: Any = AutoModelForImageTextToText
        self._model = model_class.from_pretrained(pretrained, dtype=dtype).to(device).eval()
        self._processor = AutoProcessor.from_pretrained(pretrained)
        ends = self._model.generation_config.eos_token_id
        self._ends = set(ends if isinstance(ends, list) else [ends])

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        return [self._answer(*request.args) for request in tqdm(requests, desc="answers")]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        raise NotImplementedError("gpg_vl answers questions; tasks that compare log-likelihoods need another model")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        raise NotImplementedError("gpg_vl answers in one round")

    @torch.no_grad()
    def _answer(
        self, _context: str, doc_to_messages: Any, settings: Mapping[str, Any], row: int, task: str, split: str
    ) -> str:
        messages = ChatMessages(messages=doc_to_messages(self.task_dict[task][split][row])).to_hf_messages()
        inputs = encode_conversation(self._processor, messages, settings)
        inputs = inputs.to(self._model.device, dtype=self._model.dtype)
        [tokens] = self._model.generate(**inputs, **_decoding(settings))
        answer = tokens[inputs["input_ids"].shape[1] :].tolist()
        while answer and answer[-1] in self._ends:
            answer.pop()
        return str(self._processor.tokenizer.decode(answer))


def _decoding(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The task's settings, greedy where it asks for no temperature."""
    found = {name: settings[name] for name in _SETTINGS if settings.get(name) is not None}
    if found.get("temperature", 0.0) > 0:
        return {**found, "do_sample": True}
    return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None} | {
        name: found[name] for name in ("max_new_tokens", "num_beams") if name in found
    }


def main() -> None:
    from lmms_eval.cli.dispatch import main as run
    from lmms_eval.models import MODEL_REGISTRY_V2
    from lmms_eval.models.registry_v2 import ModelManifest

    MODEL_REGISTRY_V2.register_manifest(ModelManifest(NAME, chat_class_path="eval.lmms_model.Checkpoint"))
    run()


if __name__ == "__main__":
    main()
