"""Image features as tensors to write, and how far they differ."""

from __future__ import annotations

import pytest
import torch

from gpg_vl.models.inputs.vision_records import feature_distance, features_to_tensors, tensors_to_features
from gpg_vl.records import ImageFeatures


@pytest.fixture
def features() -> ImageFeatures:
    """The embeddings of four image tokens, and a deeper level that is not contiguous."""
    generator = torch.Generator().manual_seed(1)
    return ImageFeatures((torch.randn(4, 6, generator=generator), torch.randn(6, 4, generator=generator).T))


def test_features_come_back_from_their_tensors(features: ImageFeatures) -> None:
    tensors = features_to_tensors(features)
    assert all(tensor.is_contiguous() for tensor in tensors)
    back = tensors_to_features(tensors)
    assert len(back.levels) == 2
    assert all(torch.equal(one, other) for one, other in zip(back.levels, features.levels, strict=True))


def test_the_distance_is_that_of_the_worst_level_over_the_expected_norm(features: ImageFeatures) -> None:
    first, second = features.levels
    assert feature_distance(features, features) == 0
    assert feature_distance(ImageFeatures((1.5 * first, second)), features) == pytest.approx(0.5)
    assert feature_distance(ImageFeatures((1.5 * first, 3 * second)), features) == pytest.approx(2)
    assert feature_distance(features, ImageFeatures((2 * first, second))) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="zip"):
        feature_distance(ImageFeatures((first,)), features)
