"""A model folder is data: no code of it runs, nothing is unpickled, no name in it leads out of it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gpg_vl.config import LoraConfig, ModelConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.folder.loading import check_names, dense_attention, read_config
from gpg_vl.models.folder.saving import check_model_folder
from gpg_vl.models.inputs.parts import Medium
from gpg_vl.models.plain_rows import plain_log_probs
from gpg_vl.models.tiny import write_tiny_model
from gpg_vl.models.weights.gathered import find_places
from gpg_vl.records import Completion
from tests.support.builders import FAMILIES, SMALL_IMAGES, make_prompt, make_sample
from tests.support.families import CASES, skip_unless_installed
from tests.support.hub import put_on_hub
from tests.support.messages import naming


@pytest.fixture
def folder(model_folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a tiny model, with Python files that leave a trace when they run."""
    copy = shutil.copytree(model_folders["qwen2_vl"], tmp_path / "m")
    (copy / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass P: pass\n")
    return copy


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def without(path: Path, *keys: str) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in content.items() if key not in keys}))


def load(folder: Path, **config: Any) -> Any:
    return load_adapter(ModelConfig(**{"path": str(folder), **SMALL_IMAGES, **config}))


def refusal(action: Callable[[], object]) -> str:
    """What a ``ValueError`` says; "" where there is none."""
    try:
        action()
    except ValueError as error:
        return str(error)
    return ""


def name_processor(folder: Path) -> None:
    values = {"processor_class": "EvilP", "auto_map": {"AutoProcessor": "evil.P"}}
    change(folder / "processor_config.json", **values)


def name_tokenizer(folder: Path) -> None:
    """No other file names a class, so that only the model's type says which processor it is."""
    without(folder / "processor_config.json", "processor_class")
    without(folder / "tokenizer_config.json", "processor_class")
    values = {"tokenizer_class": "EvilT", "auto_map": {"AutoTokenizer": ["evil.P", "evil.P"]}}
    change(folder / "tokenizer_config.json", **values)


def name_config(folder: Path) -> None:
    change(folder / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.P"})


@pytest.mark.parametrize("name", [name_processor, name_tokenizer, name_config])
def test_no_code_of_the_folder_runs(
    folder: Path, tmp_path: Path, name: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the outcome, nobody is asked and nothing runs."""
    name(folder)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    for action in (lambda: load(folder), lambda: check_model_folder(folder)):
        assert "\n" not in refusal(action)
    assert not (tmp_path / "ran").exists()


def test_attention_is_the_kits_whatever_the_config_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = "kernels-community/anything"
    text = json.loads((folder / "config.json").read_text())["text_config"]
    change(
        folder / "config.json",
        _attn_implementation=kernel,
        attn_implementation=kernel,
        _attn_implementation_internal=kernel,
        text_config={**text, "_attn_implementation": kernel},
    )
    config = read_config(str(folder))
    assert {config._attn_implementation, config.get_text_config()._attn_implementation} == {"sdpa"}
    for with_weights in (True, False):
        model = load_adapter(ModelConfig(path=str(folder), **SMALL_IMAGES), with_weights).model  # type: ignore[arg-type]
        assert {module.config._attn_implementation for module in model.modules() if hasattr(module, "config")} == {
            "sdpa"
        }
    check_model_folder(folder)


@pytest.mark.parametrize(
    "found",
    [
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "fp8"},
        {"quant_method": "awq", "bits": 4},
        {"quant_method": "never heard of"},
        {"bits": 4},
    ],
    ids=str,
)
@pytest.mark.parametrize("part", [None, "text_config"])
def test_a_quantised_model_is_refused(folder: Path, found: dict[str, Any], part: str | None) -> None:
    config = json.loads((folder / "config.json").read_text())
    (config if part is None else config[part])["quantization_config"] = found
    (folder / "config.json").write_text(json.dumps(config))
    for with_weights in (True, False):
        with pytest.raises(ValueError, match=naming("model.path", folder, found.get("quant_method", ""))):
            load_adapter(ModelConfig(path=str(folder)), with_weights)


@pytest.mark.parametrize(
    "name", ["hf_quant_config.json", "quantize_config.json", "quant_config.json", "quanto_qmap.json"]
)
def test_a_file_beside_the_config_says_that_the_weights_are_codes(folder: Path, name: str) -> None:
    (folder / name).write_text("{}")
    for with_weights in (True, False):
        with pytest.raises(ValueError, match=naming("model.path", folder, "quantised", name)):
            load_adapter(ModelConfig(path=str(folder)), with_weights)


@pytest.mark.parametrize(
    ("tail", "dtype"),
    [
        ("weight", torch.float8_e4m3fn),
        ("weight", torch.float8_e5m2),
        ("qweight", torch.int32),
        ("qzeros", torch.int32),
        ("weight_packed", torch.uint8),
        ("weight_scale", torch.float32),
        ("weight_scale_inv", torch.float32),
        ("weight", torch.int8),
        ("weight", torch.uint8),
        ("SCB", torch.float32),
        ("weight.absmax", torch.float32),
    ],
    ids=str,
)
@pytest.mark.parametrize("is_split", [False, True])
def test_codes_are_found_in_the_weights_themselves(folder: Path, tail: str, dtype: torch.dtype, is_split: bool) -> None:
    """ModelOpt's config does not name them, and transformers would read them as numbers."""
    name, file = f"model.language_model.layers.0.mlp.up_proj.{tail}", folder / "model.safetensors"
    weights = load_file(file)
    weights[name] = torch.ones(4, 4).to(dtype)
    if is_split:
        file.unlink()
        file = folder / "model-00001-of-00001.safetensors"
        index = {"metadata": {}, "weight_map": dict.fromkeys(weights, file.name)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=naming("model.path", folder, "quantised", name, file.name)):
        load(folder)


def test_codes_from_the_hub_are_found_where_they_were_downloaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("up_proj.weight"))
    save_file({**weights, name: weights[name].to(torch.float8_e4m3fn)}, folder / "model.safetensors", {"format": "pt"})
    put_on_hub(folder, "someone/codes", monkeypatch)
    with pytest.raises(ValueError, match=naming("model.path", "someone/codes", "quantised", name)):
        load_adapter(ModelConfig(path="someone/codes"))


def test_pickled_weights_are_not_read(folder: Path) -> None:
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ValueError, match=naming("model.path", folder)):
        load(folder)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/dev/zero", "", 7, "a\0b", "sub/../../outside"])
def test_an_index_names_files_of_its_folder(folder: Path, name: object) -> None:
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"a": name}}))
    with pytest.raises(ValueError, match=naming("model.path", index)):
        load(folder)


@pytest.mark.parametrize(
    "content", ["[]", "{", "[" * 100_000, '{"weight_map": []}'], ids=["list", "cut", "deep", "map"]
)
def test_an_index_that_cannot_be_read_is_named(folder: Path, content: str) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(content)
    with pytest.raises(ValueError, match=naming("model.path", index)):
        check_names(str(folder))


def test_the_tokenizer_names_no_file_outside(folder: Path) -> None:
    """One that is there; published tokenizers name files of the machine that made them."""
    tokenizer = folder / "tokenizer_config.json"
    change(tokenizer, special_tokens_map_file="/no/such/place/special_tokens_map.json")
    load(folder)
    (folder / "tokenizer.json").rename(folder.parent / "outside.json")
    change(tokenizer, tokenizer_file=str(folder.parent / "outside.json"))
    with pytest.raises(ValueError, match=naming("model.path", tokenizer, folder.parent / "outside.json")):
        load(folder)


def test_no_second_model_is_loaded_for_a_processor(folder: Path) -> None:
    change(folder / "processor_config.json", audio_tokenizer={"audio_tokenizer_name_or_path": "someone/model"})
    with pytest.raises(ValueError, match=naming("model.path", folder / "processor_config.json")):
        load(folder)


@pytest.mark.parametrize(
    "values", [{"hidden_size": "x"}, {"text_config": 3}, {"vision_config": []}, {"dtype": {}}], ids=str
)
def test_a_config_of_wrong_types_is_one_line(folder: Path, values: dict[str, Any]) -> None:
    change(folder / "config.json", **values)
    said = refusal(lambda: load(folder))
    assert "\n" not in said and "model.path" in (said or "model.path")


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for m in messages %}{{ m.nothing.at.all }}{% endfor %}",
        "{{ ''.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% if %}",
    ],
    ids=["endless", "undefined", "class", "globals", "syntax"],
)
def test_a_chat_template_is_a_program_with_limits(folder: Path, template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpg_vl.models.inputs.chat.TEMPLATE_DEADLINE.seconds", 0.3)
    adapter = load(folder)
    adapter.processor.chat_template = template
    start = time.monotonic()
    with pytest.raises(ValueError, match=naming("model.path", folder, "chat template")):
        adapter.render_chat([Medium.IMAGE, "How many?"], None)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora", [None, LoraConfig(r=2, parts=["text", "vision"])], ids=["full", "lora"])
def test_a_model_without_values_is_the_same_one_once_it_has_them(
    model_folders: dict[str, Path], family: str, lora: LoraConfig | None
) -> None:
    assert_same_without_values(ModelConfig(path=str(model_folders[family]), lora=lora, freeze=[]))


@pytest.mark.families
@pytest.mark.parametrize("family", CASES)
def test_so_it_is_in_every_family(tmp_path: Path, family: str) -> None:
    skip_unless_installed(CASES[family])
    folder = write_tiny_model(tmp_path / family, family, seed=1)
    assert_same_without_values(ModelConfig(path=str(folder), **CASES[family].config))


def assert_same_without_values(config: ModelConfig) -> None:
    """With the weights in their places it has the same log-probs: what it computes for itself is there too."""
    expected, found = load_adapter(config), load_adapter(config, with_values=False)
    named = [dict(adapter.model.named_parameters()) for adapter in (found, expected)]
    for name, each in named[1].items():
        assert named[0][name].shape == each.shape and named[0][name].requires_grad == each.requires_grad
    assert list(named[0]) == list(named[1])
    base = [each for name, each in found.model.named_parameters() if ".lora_" not in name]
    assert base and all(each.is_meta for each in base)
    for (name, buffer), (other, value) in zip(found.model.named_buffers(), expected.model.named_buffers(), strict=True):
        assert name == other and torch.equal(buffer, value)
    places = [find_places(adapter.model, "_parameters") for adapter in (found, expected)]
    assert {name: len(place.modules) for name, place in places[0].items()} == {
        name: len(place.modules) for name, place in places[1].items()
    }
    for name, place in places[0].items():
        place.put(places[1][name].get())
    prompt = make_prompt(expected, make_sample([(84, 84)])).encoded
    completion = Completion(expected.encode_completion("2"), "2", finished=True)
    with torch.no_grad():
        log_probs = [plain_log_probs(adapter, prompt, completion, 1.0) for adapter in (found, expected)]
    assert torch.equal(*log_probs)
    assert found.end_token_ids == expected.end_token_ids


def test_attention_is_that_of_the_device_that_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine may have a GPU that ``model.device: cpu`` leaves alone."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert dense_attention(ModelConfig(attention="flex_attention"), "text") == "sdpa"
    with pytest.raises(ValueError, match=naming("model.attention", "flex_attention", "CPU", "auto")):
        dense_attention(ModelConfig(attention="flex_attention", device="cpu"), "text")
