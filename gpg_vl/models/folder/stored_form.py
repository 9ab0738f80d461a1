"""Names and shapes of a model's weights in the files that it is saved to: those of the published ones.

Other engines read no others. transformers alone reads many forms, and writes of some models one that is its own.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightTransform

from gpg_vl.models.folder.carried_weights import renamer, stored_names


def store_as_published(model: PreTrainedModel) -> None:
    """For a model that was built and not read. transformers leaves out a prefix that files of its class may lack."""
    _store_by(get_model_conversion_mapping(model, add_legacy=False), model)


def store_as_in(path: str, model: PreTrainedModel) -> None:
    """For a model that was read from a folder, or is one without values that was not.

    Args:
        path: of the folder, or its name on the hub
    """
    names = stored_names(path)
    if not names:  # others read them
        store_as_published(model)
        return
    conversions = get_model_conversion_mapping(model)
    find_name = renamer(model, conversions)
    for name in names:
        find_name(name)  # transformers marks those that apply
    _store_by([each for each in conversions if each.was_used()], model)


def _store_by(conversions: list[WeightTransform], model: Any) -> None:
    """Matrices of experts that are turned when they are read are turned when they are saved, too.

    Whether they have to be, transformers sees by their shape in the file; when it saves, it has the model's own shape,
    and would turn none. Square ones are left as they are: it takes them as they come.
    """
    for conversion in conversions:
        for operation in getattr(conversion, "operations", ()):
            if getattr(operation, "check_dims", False) and not _has_square(model, conversion):
                operation.check_dims = False
    model._weight_conversions = conversions  # what ``save_pretrained`` goes by


def _has_square(model: PreTrainedModel, conversion: WeightTransform) -> bool:
    shapes = [
        weight.shape
        for name, weight in model.named_parameters()
        if any(pattern in name for pattern in conversion.target_patterns)
    ]
    return any(shape[-1] == shape[-2] for shape in shapes)
