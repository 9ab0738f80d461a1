"""A chat template that would take all time or all memory: one line that names the model, before it is used."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from gpg_vl.config import ModelConfig
from gpg_vl.errors import ModelMistake
from gpg_vl.models import load_adapter
from gpg_vl.models.inputs import template_trial
from tests.support.builders import SMALL_IMAGES
from tests.support.messages import naming

WITHOUT_END = {
    "one operation": "{{ 9 ** (9 ** 9) }}",
    "a long text": "{{ 'x' * 10 ** 10 }}",
    "doubled": "{% set n = namespace(s='x') %}{% for i in range(40) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "only with images": "{% for m in messages %}{% if m.content[0].type == 'image' %}{{ [0] * 10 ** 10 }}"
    "{% endif %}{% endfor %}",
}


@pytest.mark.parametrize("template", WITHOUT_END.values(), ids=WITHOUT_END)
def test_a_template_without_end_is_refused(
    template: str, model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_trial, "MAX_SECONDS", 1)
    folder = shutil.copytree(model_folders["qwen2_vl"], tmp_path / "model")
    (folder / "chat_template.jinja").write_text(template)
    start = time.process_time()
    with pytest.raises(ModelMistake, match=naming("model.path", folder, "chat template")):
        load_adapter(ModelConfig(path=str(folder), **SMALL_IMAGES), with_weights=False)
    assert time.process_time() - start < 10
