"""The sections of a recipe that say what to start from: data and model."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from tfcompress.datasets.preprocessing import Preprocessing
from tfcompress.recipe.section import Positive, Section, Share, check_one


class PreprocessingSection(Section):
    """What is done to stored inputs: `(x * scale + offset - mean) / std`.

    Args:
        scale: Factor on the stored values.
        offset: Added after scaling.
        mean: Subtracted after that, one number or one per channel.
        std: Divided by at the end, one number or one per channel.
        dtype: Data type of the result; `None` means float32.
    """

    scale: float = 1.0
    offset: float = 0.0
    mean: list[float] | None = None
    std: list[float] | None = None
    dtype: str | None = None

    @model_validator(mode="after")
    def _valid(self) -> Self:
        self.build()
        return self

    def build(self) -> Preprocessing:
        """Return what this section describes, ready to be applied."""
        return Preprocessing.from_dict(self.model_dump())


class DataSection(Section):
    """Which data to train on and to compare with.

    Args:
        source: `digits` (scikit-learn's bundled set), `tfds:<name>` or the path of an `.npz` file.
        data_dir: Folder of the TensorFlow Datasets files, for `tfds:` sources.
        download: Whether a missing `tfds:` set may be downloaded.
        batch_size: Samples in a training batch.
        validation: Share of the training samples that is set aside and evaluated after each epoch.
        preprocessing: See `PreprocessingSection`; `None` takes the source's own.
        augmentation: Random changes of the training images: `flip` (left to right) and `crop`
            (shifts by up to 4 pixels, padded with zeros).
    """

    source: str
    data_dir: str | None = None
    download: bool = False
    batch_size: Positive = 64
    validation: Share = 0.0
    preprocessing: PreprocessingSection | None = None
    augmentation: list[Literal["flip", "crop"]] = Field(default=[])


class ModelSection(Section):
    """Which model to compress; exactly one of the three sources.

    Args:
        architecture: Name of a registered architecture.
        arguments: Its keyword arguments, or those of `function`.
        path: A `.keras` or `.h5` file. With `train: null` its weights are used as they are.
        function: `module:function`, called with `arguments`; returns a Keras model. The module is
            imported, so name only code that you trust.
    """

    architecture: str | None = None
    arguments: dict[str, Any] = Field(default={})
    path: str | None = None
    function: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        check_one(self, ("architecture", "path", "function"))
        if self.function is not None and not all(self.function.partition(":")):
            raise ValueError("`function` of the form `module:function`")
        return self
