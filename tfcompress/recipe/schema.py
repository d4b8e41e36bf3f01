"""What a recipe can say: one strict, typed model for each of its sections."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from os import PathLike
from typing import Annotated, Any, Literal, Self

import pydantic
import yaml
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from tfcompress.datasets.preprocessing import Preprocessing
from tfcompress.recipe.document import Document, parse_document, read_document
from tfcompress.recipe.messages import recipe_error

VERSION = 1

Positive = Annotated[int, Field(ge=1)]
LearningRate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Patterns = list[str] | None


def _moment(value: object) -> int | float:
    if type(value) is int and value >= 0:
        return value
    if type(value) is float and 0.0 <= value <= 1.0:
        return value
    raise ValueError("a step (a whole number) or a share of the training (from 0.0 to 1.0)")


Moment = Annotated[int | float, BeforeValidator(_moment)]


def _plain_name(name: str) -> str:
    if not name or any(not (c.isalnum() or c in "._-") for c in name) or name.startswith("."):
        raise ValueError("a name of letters, digits, `.`, `_` and `-`: it names the run folder")
    return name


class Section(pydantic.BaseModel):
    """A part of a recipe: unknown keys and wrong types are errors, and values never change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_default=True)


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
    augmentation: list[Literal["flip", "crop"]] = []


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
    arguments: dict[str, Any] = {}
    path: str | None = None
    function: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [k for k in ("architecture", "path", "function") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(
                "exactly one of `architecture`, `path` and `function`; given: "
                + (", ".join(given) or "none")
            )
        if self.function is not None and not all(self.function.partition(":")):
            raise ValueError("`function` of the form `module:function`")
        return self


class FitSection(Section):
    """The settings of one `fit`.

    Args:
        epochs: Passes over the training data.
        optimizer: Name of a Keras optimizer.
        learning_rate: Its learning rate, at the start where `decay` is `cosine`.
        decay: `constant`, or `cosine` down to zero at the stage's end (Loshchilov & Hutter 2017).
        weight_decay: Decoupled weight decay per step, for optimizers that take it.
    """

    epochs: Positive
    optimizer: str = "adam"
    learning_rate: LearningRate = 1e-3
    decay: Literal["constant", "cosine"] = "constant"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0


class TrainSection(FitSection):
    """Training of the float model.

    Args:
        loss: Keras loss. `None` chooses by the data: cross-entropy for classes.
        metrics: Keras metrics shown during training. `None` chooses by the data.
    """

    epochs: Positive = 10
    loss: str | None = None
    metrics: list[str] | None = None


class PruneSection(FitSection):
    """Magnitude pruning; see `tfcompress.callbacks.MagnitudePruning`.

    Args:
        sparsity: Share of zeros at the end, over all pruned kernels.
        schedule: `constant`, `polynomial`, `cosine` or a schedule's config.
        begin: Step, or share of the stage, at which pruning starts.
        end: Step, or share of the stage, at which the sparsity is reached.
        frequency: Steps between two updates of the masks; `None` leaves the choice to the callback.
        scope: `global` (one threshold) or `uniform` (the same sparsity in every kernel).
        criterion: `magnitude`, `lamp`, `random` or a criterion's config.
        include: Layers to prune, by name, regular expression or class; `None` means all.
        exclude: Layers to leave alone.
    """

    epochs: Positive = 5
    sparsity: Share
    schedule: str | dict[str, Any] = "polynomial"
    begin: Moment = 0.0
    end: Moment = 0.6
    frequency: Positive | None = None
    scope: Literal["global", "uniform"] = "global"
    criterion: str | dict[str, Any] = "magnitude"
    include: Patterns = None
    exclude: Patterns = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if type(self.begin) is type(self.end) and self.begin > self.end:
            raise ValueError(f"an `end` ({self.end}) that is not before `begin` ({self.begin})")
        return self


class SchemeSettings(Section):
    """The settings of a quantization scheme, where it has no name; see `tfcompress.Scheme`.

    Args:
        name: Name by which plans and files call it; made from the settings by default.
        weight_bits: Bits of a weight.
        activation_bits: Bits of an activation.
        granularity: What shares a weight scale.
        weight_range: What the largest weight code stands for.
        activations: Kind of the activation ranges, or one range `[low, high]` for all.
        observer: How activation ranges are found: a name, or a mapping of `name` and arguments.
        power_of_two: Which scales are powers of two.
        learned: How ranges are trained.
    """

    name: Annotated[str, AfterValidator(_plain_name)] | None = None
    weight_bits: Annotated[int, Field(ge=2, le=8)] = 8
    activation_bits: Literal[8] = 8
    granularity: Literal["per_channel", "per_tensor"] = "per_channel"
    weight_range: Literal["max", "mse", "octav"] = "max"
    activations: (
        Literal["asymmetric", "symmetric"]
        | Annotated[list[float], Field(min_length=2, max_length=2)]
    ) = "asymmetric"
    observer: str | dict[str, Any] = "moving_average"
    power_of_two: Literal["weights", "all"] | None = None
    learned: Literal["lsq", "pact"] | None = None


def _scheme(value: str | dict[str, Any]) -> str | dict[str, Any]:
    """Check the form of a scheme; its names are checked where it is used, by Keras code."""
    if isinstance(value, str):
        return value
    if any(key in SchemeSettings.model_fields for key in value):
        return _settings(value)
    for pattern, scheme in value.items():
        if isinstance(scheme, dict):
            _settings(scheme)
        elif not isinstance(scheme, str | None):
            raise ValueError(
                f"for the layers {pattern!r} the name of a scheme, a mapping of its settings, or "
                f"null for float, not {scheme!r}"
            )
    return value


def _settings(value: dict[str, Any]) -> dict[str, Any]:
    try:
        SchemeSettings.model_validate(value)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        key, known = str(first["loc"][0]), list(SchemeSettings.model_fields)
        if first["type"] != "extra_forbidden":
            raise ValueError(f"a scheme with a valid `{key}` ({first['msg']})") from error
        near = difflib.get_close_matches(key, known, 1, 0.0)[0]
        raise ValueError(
            f"a scheme without `{key}`; the nearest known setting is `{near}`"
        ) from error
    return value


SchemeValue = Annotated[str | dict[str, Any], AfterValidator(_scheme)]


class QuantizeSection(FitSection):
    """Quantization-aware training; see `quantize_aware` and `callbacks.QuantizationSchedule`.

    Args:
        scheme: Name of the quantization scheme, a mapping of its settings (`SchemeSettings`), or
            schemes by layer: `default`, layer names, regular expressions and layer classes, each
            with a scheme or null for float; the last that matches a layer counts.
        calibration_samples: Training samples that the first ranges are taken from.
        begin: Step or share of the stage from which on the forward pass is quantized.
        freeze_ranges: Step or share from which on the activation ranges stay as they are.
        freeze_batchnorm: Step or share from which on batch normalisation stays as it is.
    """

    epochs: Positive = 2
    learning_rate: LearningRate = 1e-4
    scheme: SchemeValue = "int8"
    calibration_samples: Positive = 256
    begin: Moment = 0.0
    freeze_ranges: Moment | None = None
    freeze_batchnorm: Moment | None = None

    @property
    def scheme_name(self) -> str:
        """What files and reports call the scheme."""
        if isinstance(self.scheme, str):
            return self.scheme
        if any(key in SchemeSettings.model_fields for key in self.scheme):
            return str(self.scheme.get("name") or "custom")
        return "mixed"


class ExportSection(Section):
    """What is written as `.tflite`.

    Args:
        io: Type of the file's inputs and outputs.
        tolerance: Largest difference between Keras and the file in quanta; `None` for the default.
        baselines: Files made from the unpruned float model to compare with: `float32`, and `int8`
            (post-training quantization).
    """

    io: Literal["int8", "uint8", "float32"] = "int8"
    tolerance: Annotated[float, Field(ge=0)] | None = None
    baselines: list[Literal["float32", "int8"]] = ["float32", "int8"]


class CompareSection(Section):
    """How the files are compared.

    Args:
        latency: Whether to time them.
        threads: Threads that LiteRT uses.
    """

    latency: bool = True
    threads: Positive = 1


class Recipe(Section):
    """A compression job: data → model → train → prune → quantize → export → compare.

    A section that is left out or `null` skips its stage; `train` may be `null` only for a model
    that is read from a file. Relative paths start at the working directory.

    Args:
        version: Version of the recipe format, 1.
        name: Name of the job, also of its run folder.
        seed: Seed of Python, NumPy and the Keras backend.
        data: See `DataSection`.
        model: See `ModelSection`.
        train: See `TrainSection`.
        prune: See `PruneSection`.
        quantize: See `QuantizeSection`.
        export: See `ExportSection`.
        compare: See `CompareSection`.

    Example:

    ```python
    recipe = Recipe.from_yaml('''
    version: 1
    name: quick
    data: {source: digits}
    model: {architecture: digits_cnn}
    train: {epochs: 3}
    prune: {sparsity: 0.8}
    ''')
    print(recipe.prune.schedule)  # polynomial
    ```
    """

    version: Literal[1]
    name: Annotated[str, AfterValidator(_plain_name)]
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    data: DataSection
    model: ModelSection
    train: TrainSection | None = None
    prune: PruneSection | None = None
    quantize: QuantizeSection | None = None
    export: ExportSection = ExportSection()
    compare: CompareSection = CompareSection()

    @model_validator(mode="after")
    def _trained(self) -> Self:
        if self.train is None and self.model.path is None:
            raise ValueError(
                "a `train` section, because the model starts from random weights; "
                "only a model given by `model: {path: …}` may skip training"
            )
        return self

    @classmethod
    def from_yaml(cls, text: str, source: str = "recipe") -> Recipe:
        """Read a recipe from YAML text.

        Args:
            text: The YAML.
            source: Name used in messages.

        Returns:
            The recipe.

        Raises:
            RecipeError: If the text is not a valid recipe; the message names lines and keys.
        """
        return cls._from_document(parse_document(text, source))

    @classmethod
    def load(cls, source: str | PathLike[str] | Mapping[str, Any] | Recipe) -> Recipe:
        """Read a recipe from a YAML file or from plain values.

        Args:
            source: Path of the file, a mapping of the sections such as a dict written in a
                notebook, or a recipe, which is returned as it is.

        Returns:
            The recipe.

        Raises:
            FileNotFoundError: If there is no such file.
            RecipeError: If it is not a valid recipe; the message names lines and keys.
        """
        if isinstance(source, Recipe):
            return source
        if isinstance(source, Mapping):
            return cls._from_document(Document(dict(source), "recipe"))
        return cls._from_document(read_document(source))

    @classmethod
    def _from_document(cls, document: Document) -> Recipe:
        try:
            return cls.model_validate(document.values)
        except pydantic.ValidationError as error:
            raise recipe_error(error, document, cls) from error

    def with_data_dir(self, data_dir: str) -> Recipe:
        """Return the same recipe, reading TensorFlow Datasets files from another folder."""
        data = self.data.model_copy(update={"data_dir": data_dir})
        return self.model_copy(update={"data": data})

    def techniques(self) -> list[tuple[str, Any]]:
        """Return what is done to the trained model, in order.

        Returns:
            `("prune", MagnitudePruning)` and `("quantize", Scheme)`, where the recipe has them.

        Raises:
            ValueError: If a schedule or scheme is unknown.
        """
        # Only here, so that reading a recipe does not load Keras.
        from tfcompress.recipe.techniques import techniques

        return techniques(self)

    def to_yaml(self) -> str:
        """Return the recipe as YAML with every default written out."""
        return yaml.safe_dump(
            self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100
        )
