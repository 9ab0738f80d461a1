"""The experts that a mixture chooses, in packed rows and in plain ones."""

from __future__ import annotations

import pytest
import torch

from gpg_vl.models.tiny import write_tiny_model
from gpg_vl.update.expert_choices import changed_share, recording_choices
from gpg_vl.update.packing import build_micro_batch, plan_micro_batches
from gpg_vl.update.policy import packed_log_probs
from gpg_vl.update.self_check import check_packing
from tests.support.builders import whole
from tests.support.families import CASES, Bench, load_case, shake
from tests.support.gemma4_sizes import SIZES, write_other_size
from tests.support.messages import naming


@pytest.fixture(scope="module", params=["qwen3_vl_moe", "qwen3_5_moe", "glm4v_moe", "gemma4"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    root, family = tmp_path_factory.mktemp("moe"), request.param
    case = CASES[family]
    tiny = write_other_size(root, SIZES["experts"]) if family == "gemma4" else write_tiny_model(root, family, seed=1)
    adapter = load_case(case, tiny)
    shake(adapter)
    return Bench(case, adapter, root)


def test_routers_choose_alike_in_packed_and_in_ordinary_rows(bench: Bench) -> None:
    """Every layer has one, but for the first ones of GLM; each chooses an expert once."""
    adapter, text = bench.adapter, bench.adapter.model.config.get_text_config()
    rows = whole(*bench.groups)
    batch = build_micro_batch(rows, adapter)
    with torch.no_grad(), recording_choices(adapter.model) as chosen:
        packed_log_probs(adapter, batch, 1.0)
    num_layers = text.num_hidden_layers - getattr(text, "first_k_dense_replace", 0)
    num_experts = getattr(text, "top_k_experts", None) or text.num_experts_per_tok
    assert num_layers > 0
    assert [tuple(each.shape) for each in chosen] == [(batch.input_ids.numel(), num_experts)] * num_layers
    assert all((each[:, 1:] > each[:, :-1]).all() for each in chosen)
    assert check_packing(adapter, rows, 0.7) < bench.case.tolerance
    [ordinary] = plan_micro_batches(bench.groups, 10**6, 10**6, pack=False)
    assert check_packing(adapter, ordinary, 0.7) < bench.case.tolerance
    with torch.no_grad(), recording_choices(adapter.model) as of_tower:
        adapter.encode_images(bench.groups[1].prompt.encoded.vision)  # type: ignore[arg-type]
    assert of_tower == []


def test_other_experts_are_noticed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("not regrouped", "completions see each other", "nothing sees a later token")
    next(bench.case.mutations[name] for name in names if name in bench.case.mutations)(monkeypatch)
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
