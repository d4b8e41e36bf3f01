"""Which parts of a network matter least: measured on data, with each of them left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from tfcompress.evaluation.score import Score
from tfcompress.evaluation.trial_samples import TrialSamples, trial_samples
from tfcompress.graph import Graph, Tensor, flatten
from tfcompress.graph.bypass import downstream, run_nodes
from tfcompress.graph.model_inputs import sample_specs
from tfcompress.graph.selection import Patterns
from tfcompress.progress import progress_bar
from tfcompress.restructure.units import Unit, find_units
from tfcompress.text_table import render_figures

if TYPE_CHECKING:
    import pandas

CRITERIA = ("cosine", "accuracy")


@dataclass(frozen=True)
class RankedUnit:
    """A part of a network and what it is worth.

    Attributes:
        name: Name of the residual block's addition, or of the layer.
        kind: `"block"` or `"layer"`.
        importance: What the ranking goes by; the lowest is left out first.
        parameters: Weights in it.
        macs: Multiplications that it does for one sample.
        layers: Names of the layers with weights in it.
    """

    name: str
    kind: str
    importance: float
    parameters: int
    macs: int
    layers: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class LayerRanking:
    """What `rank_layers` found: the least important first. Prints as a table.

    Attributes:
        model: Name of the model.
        criterion: `"cosine"` or `"accuracy"`.
        metric: What `importance` is.
        samples: Number of samples that it was measured on.
        units: The parts, least important first.
    """

    model: str
    criterion: str
    metric: str
    samples: int
    units: tuple[RankedUnit, ...]

    def to_frame(self) -> pandas.DataFrame:
        """Return a row a part, the least important first."""
        import pandas

        columns = ["name", "kind", "importance", "parameters", "macs", "layers"]
        rows = [[getattr(unit, column) for column in columns] for unit in self.units]
        return pandas.DataFrame(rows, columns=columns)

    def __str__(self) -> str:
        rows = [("part", "importance", "parameters", "MACs")]
        for unit in self.units:
            figures = (f"{unit.importance:.4f}", f"{unit.parameters:,}", f"{unit.macs:,}")
            rows.append((unit.name, *figures))
        title = (
            f"What can be left out of '{self.model}', least important first\n"
            f"importance: {self.metric}; {self.samples:,} samples"
        )
        return "\n".join([title, "", *render_figures(rows)])

    # In a Python shell the object alone shows the table, as it does in a notebook.
    __repr__ = __str__

    def _repr_html_(self) -> str:
        html: str = self.to_frame().to_html(index=False)
        return html


def rank_layers(
    model: keras.Model,
    data: Any,
    criterion: str = "cosine",
    *,
    units: str | None = None,
    exclude: Patterns = None,
    samples: int | None = 256,
    batch_size: int = 32,
    progress: bool = True,
) -> LayerRanking:
    """Rank the residual blocks, or the layers that keep the shape, by what they are worth.

    Args:
        model: A built Keras model. It is left as it is.
        data: `(x, y)`, a `tf.data.Dataset` of such batches, a tfcompress `Dataset` or the spec of
            one (validation samples, else training samples); or inputs alone, in any form that
            `calibration` takes.
        criterion: `"cosine"`: 1 less the mean cosine of what the part reads and what it makes, for
            each token of a sequence, or each sample otherwise: the "block influence" of ShortGPT.
            `"accuracy"`: what the network loses without the part, in accuracy, or in what else
            `Score` measures by default for the data. Defaults to `"cosine"`.
        units: `"blocks"`, `"layers"`, or None for residual blocks where there are some, else
            layers. Defaults to None.
        exclude: Parts to leave out of the ranking: names, regular expressions or layer classes, of
            the part or of a layer in it. Defaults to None.
        samples: Most samples to use. Defaults to 256.
        batch_size: Samples a step. Defaults to 32.
        progress: Whether to show a progress bar, where stderr is a terminal. Defaults to True.

    Returns:
        The ranking: prints as a table, `to_frame()`.

    Raises:
        ValueError: If the model was never built or cannot be traced, has nothing that could be left
            out, a pattern matches nothing, or the data do not fit.

    Reference: Men et al. 2024, "ShortGPT: Layers in Large Language Models are More Redundant Than
    You Expect", equation 1.

    Example:

    ```python
    print(tfcompress.rank_layers(model, x_val))
    ```
    """
    if criterion not in CRITERIA:
        raise ValueError(
            f"`criterion` must be one of {', '.join(map(repr, CRITERIA))}. Received: {criterion!r}"
        )
    graph = flatten(model)
    found = find_units(graph, units, exclude)
    trials = trial_samples(data, sample_specs(model), samples)
    size = graph.inputs[0].shape[0] or min(batch_size, trials.count)
    steps = -(-trials.count // size)
    with progress_bar(steps * len(found), progress) as advance:
        if criterion == "cosine":
            metric = "1 - cosine of input and output"
            importance = _cosine_changes(graph, found, trials, size, advance)
        else:
            metric, importance = _losses(graph, found, trials, size, advance)
    ranked = sorted(zip(importance, range(len(found))))
    return LayerRanking(
        model.name,
        criterion,
        metric,
        trials.count,
        tuple(_ranked(found[number], value) for value, number in ranked),
    )


def _ranked(unit: Unit, importance: float) -> RankedUnit:
    return RankedUnit(
        unit.name, unit.kind, importance, unit.parameters, unit.macs, tuple(unit.layers)
    )


def _forwards(graph: Graph, trials: TrialSamples, size: int) -> Iterator[dict[Tensor, Any]]:
    """All values of the network, batch by batch."""
    for batch in trials.batches(size):
        values: dict[Tensor, Any] = {
            tensor: ops.convert_to_tensor(array, tensor.dtype)
            for tensor, array in zip(graph.inputs, batch, strict=True)
        }
        run_nodes(graph.nodes, values)
        yield values


def _cosine_changes(
    graph: Graph, units: list[Unit], trials: TrialSamples, size: int, advance: Any
) -> list[float]:
    cosines: list[list[np.ndarray]] = [[] for _ in units]
    for values in _forwards(graph, trials, size):
        for found, unit in zip(cosines, units, strict=True):
            found.append(_cosine(values[unit.source], values[unit.target]))
            advance(f"cosine: {unit.name}", 1)
    return [1.0 - float(np.concatenate(found)[: trials.count].mean()) for found in cosines]


def _cosine(source: Any, target: Any) -> np.ndarray:
    """The cosine of two values, of shape (samples,)."""
    count = source.shape[0]
    # A token of a sequence is a vector of its own, as in the paper.
    rows = (count, -1, source.shape[-1]) if len(source.shape) == 3 else (count, 1, -1)
    first, second = (ops.cast(ops.reshape(x, rows), "float32") for x in (source, target))
    lengths = ops.norm(first, axis=-1) * ops.norm(second, axis=-1)
    # Where both are zero nothing changes; where one is, everything does.
    both_zero = ops.cast(ops.norm(first - second, axis=-1) == 0, "float32")
    cosine = ops.sum(first * second, axis=-1) / ops.maximum(lengths, 1e-30)
    cosine = ops.where(lengths > 0, cosine, both_zero)
    mean: np.ndarray = ops.convert_to_numpy(ops.mean(cosine, axis=-1))
    return mean


def _losses(
    graph: Graph, units: list[Unit], trials: TrialSamples, size: int, advance: Any
) -> tuple[str, list[float]]:
    whole: list[list[np.ndarray]] = []
    without: list[list[list[np.ndarray]]] = [[] for _ in units]
    affected = [downstream(graph, unit.target) for unit in units]
    for values in _forwards(graph, trials, size):
        whole.append(_outputs(graph, values))
        for found, unit, nodes in zip(without, units, affected, strict=True):
            changed = {**values, unit.target: values[unit.source]}
            run_nodes(nodes, changed)
            found.append(_outputs(graph, changed))
            advance(f"accuracy: {unit.name}", 1)
    score = Score(_joined(whole, trials.count), trials.labels)
    losses = [score.drop(score.value(_joined(found, trials.count))) for found in without]
    word = "lost" if score.better > 0 else "gained"
    return f"{score.name} {word} without it", losses


def _outputs(graph: Graph, values: dict[Tensor, Any]) -> list[np.ndarray]:
    return [np.asarray(ops.convert_to_numpy(values[t]), "float32") for t in graph.outputs]


def _joined(batches: list[list[np.ndarray]], count: int) -> list[np.ndarray]:
    return [np.concatenate(column)[:count] for column in zip(*batches, strict=True)]
