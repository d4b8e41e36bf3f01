"""What a recipe can say: one strict, typed model for each of its sections."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Annotated, Any, Literal, Self

import pydantic
import yaml
from pydantic import AfterValidator, Field, model_validator

from tfcompress.recipe.document import Document, parse_document, read_document
from tfcompress.recipe.iterative_section import IterativeSection
from tfcompress.recipe.messages import recipe_error
from tfcompress.recipe.scheme_settings import SchemeSettings as SchemeSettings
from tfcompress.recipe.section import Positive, Section, plain_name
from tfcompress.recipe.source_sections import DataSection, ModelSection
from tfcompress.recipe.source_sections import PreprocessingSection as PreprocessingSection
from tfcompress.recipe.structure_sections import RemoveLayersSection, ShrinkSection
from tfcompress.recipe.training_sections import FitSection as FitSection
from tfcompress.recipe.training_sections import PruneSection, QuantizeSection, TrainSection


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
    baselines: list[Literal["float32", "int8"]] = Field(default=["float32", "int8"])


class CompareSection(Section):
    """How the files are compared.

    Args:
        latency: Whether to time them.
        threads: Threads that LiteRT uses.
    """

    latency: bool = True
    threads: Positive = 1


class Recipe(Section):
    """A compression job: data → model → train → compress → export → compare.

    Layers are removed first, then channels, then single weights; quantization comes last. A section
    that is left out or `null` skips its stage; `train` may be `null` only for a model that is read
    from a file. Relative paths start at the working directory.

    Args:
        version: Version of the recipe format, 1.
        name: Name of the job, also of its run folder.
        seed: Seed of Python, NumPy and the Keras backend.
        data: See `DataSection`.
        model: See `ModelSection`.
        train: See `TrainSection`.
        remove_layers: See `RemoveLayersSection`.
        shrink: See `ShrinkSection`.
        prune: See `PruneSection`.
        quantize: See `QuantizeSection`.
        iterative: See `IterativeSection`.
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
    name: Annotated[str, AfterValidator(plain_name)]
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    data: DataSection
    model: ModelSection
    train: TrainSection | None = None
    remove_layers: RemoveLayersSection | None = None
    shrink: ShrinkSection | None = None
    prune: PruneSection | None = None
    quantize: QuantizeSection | None = None
    iterative: IterativeSection | None = None
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

    @model_validator(mode="after")
    def _rounds_remove(self) -> Self:
        if self.iterative is None:
            return self
        if (self.prune is None) == (self.shrink is None):
            raise ValueError("a `prune` or a `shrink` section, which the rounds repeat, not both")
        if self.prune is not None and not isinstance(self.prune.sparsity, float):
            raise ValueError("a number as `prune.sparsity`, which the rounds approach")
        if self.shrink is not None and self.shrink.share_left is None:
            raise ValueError(
                "a share as the goal of `shrink`, up to 1.0, which the rounds approach"
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
            Pairs of a section's name and what it stands for; see `recipe.techniques.techniques`.

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
