"""The experts that a mixture chooses, in packed rows and in plain ones."""

from __future__ import annotations

import pytest
import torch

from gpg_vl.models.tiny import write_tiny_model
from gpg_vl.update.packing import build_micro_batch, plan_micro_batches
from gpg_vl.update.policy import packed_log_probs
from gpg_vl.update.routers import changed_share, recording_choices
from gpg_vl.update.self_check import check_packing
from tests.support.builders import whole
from tests.support.families import CASES, Bench, load_case, shake
from tests.support.messages import naming


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    root = tmp_path_factory.mktemp("moe")
    case = CASES["qwen3_vl_moe"]
    adapter = load_case(case, write_tiny_model(root, "qwen3_vl_moe", seed=1))
    shake(adapter)
    return Bench(case, adapter, root)


def test_routers_choose_alike_in_packed_and_in_ordinary_rows(bench: Bench) -> None:
    adapter, text = bench.adapter, bench.adapter.model.config.get_text_config()
    rows = whole(*bench.groups)
    batch = build_micro_batch(rows, adapter)
    with torch.no_grad(), recording_choices(adapter.model) as chosen:
        packed_log_probs(adapter, batch, 1.0)
    assert [tuple(each.shape) for each in chosen] == [
        (batch.input_ids.numel(), text.num_experts_per_tok)
    ] * text.num_hidden_layers
    assert all((each[:, 1:] > each[:, :-1]).all() for each in chosen), "each expert once"
    assert check_packing(adapter, rows, 0.7) < 1e-5
    [ordinary] = plan_micro_batches(bench.groups, 10**6, 10**6, pack=False)
    assert check_packing(adapter, ordinary, 0.7) < 1e-5
    with recording_choices(adapter.model.model.visual) as of_tower:
        adapter.encode_images(bench.groups[1].prompt.encoded.vision)  # type: ignore[arg-type]
    assert of_tower == []


def test_other_experts_are_noticed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    CASES["qwen3_vl_moe"].mutations["completions see each other"](monkeypatch)
    with pytest.raises(RuntimeError, match=naming("self-check", "routers", "update.pack")):
        check_packing(bench.adapter, whole(*bench.groups), 1.0)


def test_the_share_counts_tokens_and_layers() -> None:
    packed = [torch.tensor([[0, 1], [0, 2], [1, 2], [1, 3]]), torch.tensor([[0, 1], [0, 1], [0, 1], [0, 1]])]
    first, second = torch.tensor([0, 1]), torch.tensor([0, 3])
    plain = [each[place] for place in (first, second) for each in packed]
    assert changed_share(packed, plain, [first, second]) == 0
    plain[2] = torch.tensor([[0, 1], [2, 3], [5, 6]])  # its last token is not in the packed row
    assert changed_share(packed, plain, [first, second]) == 1 / 8
    assert changed_share([], [], [first]) == 0
