"""Layers that prepare data: what acts in training only, and what belongs before a model."""

from __future__ import annotations

from keras import layers

from tfcompress.graph import Node
from tfcompress.quantization.rules.registry import Role, Rule, register


@register(
    *(layers.AugMix, layers.CutMix, layers.MixUp, layers.RandAugment, layers.RandomBrightness),
    *(layers.RandomColorDegeneration, layers.RandomColorJitter, layers.RandomContrast),
    *(layers.RandomElasticTransform, layers.RandomErasing, layers.RandomFlip),
    *(layers.RandomGaussianBlur, layers.RandomGrayscale, layers.RandomHue, layers.RandomInvert),
    *(layers.RandomPerspective, layers.RandomPosterization, layers.RandomRotation),
    *(layers.RandomSaturation, layers.RandomSharpness, layers.RandomShear),
    *(layers.RandomTranslation, layers.RandomZoom),
)
class AugmentationRule(Rule):
    """Acts in training only, on floats; what comes out of it is quantized.

    The exported model does without it.
    """

    def role(self, node: Node) -> Role:
        """`FLOAT`, so that ranges start behind it."""
        return Role.FLOAT


@register(
    *(layers.AutoContrast, layers.CategoryEncoding, layers.Discretization),
    *(layers.Equalization, layers.HashedCrossing, layers.Hashing, layers.IntegerLookup),
    *(layers.MelSpectrogram, layers.RandomCrop, layers.STFTSpectrogram, layers.Solarization),
    *(layers.StringLookup, layers.TextVectorization),
)
class PreprocessingRule(Rule):
    """Work on raw data, for which LiteRT has no integer kernels or no kernels at all."""

    def refusal(self, node: Node) -> str | None:
        """Always."""
        return (
            f"{node.type_name} has no integer form; preprocess the data before they enter the model"
        )


@register(layers.Masking)
class MaskingRule(Rule):
    """Compares values with a constant and hands a mask along."""

    def refusal(self, node: Node) -> str | None:
        """Always."""
        return "it compares exact values, which rounding changes; mask the data before the model"


@register(layers.SpectralNormalization)
class SpectralNormalizationRule(Rule):
    """Changes the weights of another layer in training."""

    def refusal(self, node: Node) -> str | None:
        """Always."""
        return "it rescales the kernel at every step; put the normalized layer in its place first"
