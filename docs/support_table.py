"""Write `docs/support.md`: what each layer becomes in each scheme, converted and run.

    python docs/support_table.py
    python docs/support_table.py --category Blocks --print

Blocks of a category are outputs of one model, which is converted once for each scheme. The
operators of a block are those between the inputs and its output.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import support_blocks

PAGE = Path(__file__).with_name("support.md")
SCHEMES = {
    "int8": "int8, trained or calibrated (`quantize_aware`)",
    "w4a8": "4-bit weights (`quantize_aware`)",
    "ptq": "int8 after training (`convert`)",
}
_HEAD = """# Layers and schemes

Written by `python docs/support_table.py` with {versions}; every cell is a file that was converted and run.

`max / off`: the largest difference between the Keras model and the file in steps of the output's scale, and the share
of the outputs that differ by more than half a step, on {samples} random samples with LiteRT's default kernels. The first two columns
compare with the quantization-aware model, the third with the float model, so that it contains the quantization error
itself. *float* names the operators that stay in float; *no* means that the conversion fails.

"""  # noqa: E501


@dataclass(frozen=True)
class Cell:
    """What one block became in one scheme.

    Attributes:
        largest: Largest difference in steps of the output's scale.
        off: Share of the outputs that differ by more than half a step.
        floats: LiteRT's names of the operators left in float.
        failure: Why there is no file; empty when there is one.
    """

    largest: float = 0.0
    off: float = 0.0
    floats: tuple[str, ...] = ()
    failure: str = ""

    def __str__(self) -> str:
        if self.failure:
            return f"no: {self.failure}"
        if self.floats:
            return "float: " + ", ".join(self.floats)
        return f"{self.largest:.1f} / {self.off:.1%}"


def cells(names: list[str], blocks: dict[str, support_blocks.Block], scheme: str) -> list[Cell]:
    """Convert blocks with a scheme and compare them with Keras.

    All together, because a conversion takes seconds. Each alone where that fails or leaves an
    operator in float: the converter merges operators that are equal but for their range. Those of
    `ptq` always alone: its ranges of one input are those of all that reads it.

    Args:
        names: Names of the blocks.
        blocks: The blocks by name.
        scheme: A key of `SCHEMES`.
    """
    import keras

    if scheme == "ptq" and len(names) > 1:
        return [cells([name], blocks, scheme)[0] for name in names]
    keras.utils.set_random_seed(0)
    given = support_blocks.inputs()
    outputs = {f"block_{i:02d}": blocks[name](given) for i, name in enumerate(names)}
    used = _used(keras.tree.flatten(outputs), given)
    model = keras.Model({name: given[name] for name in used}, outputs, name="blocks")
    _perturb(model)
    data = {name: values for name, values in support_blocks.samples().items() if name in used}
    try:
        found = _converted(model, data, scheme)
    except (ValueError, RuntimeError) as error:
        found = [Cell(failure=str(error).split(".")[0][:80])] * len(names)
    if len(names) == 1:
        return found
    return [
        cells([name], blocks, scheme)[0] if cell.floats or cell.failure else cell
        for name, cell in zip(names, found, strict=True)
    ]


def _used(outputs: list[Any], given: dict[str, Any]) -> list[str]:
    import keras

    from tfcompress.graph import flatten

    model = keras.Model(list(given.values()), outputs)
    graph = flatten(model)
    return [t.name for t in graph.inputs if graph.consumers(t) or t in graph.outputs]


def _perturb(model: Any) -> None:
    """Give biases and statistics values that training would."""
    generator = np.random.default_rng(0)
    for variable in model.variables:
        if len(variable.shape) == 1 and variable.dtype == "float32":
            variable.assign(generator.uniform(0.2, 1.2, variable.shape))


def _converted(model: Any, data: dict[str, np.ndarray], scheme: str) -> list[Cell]:
    import tfcompress as tfc
    from tfcompress.evaluation import LiteRTModel
    from tfcompress.export import Tolerance

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "blocks.tflite"
        if scheme == "ptq":
            reference = model
            tolerance = Tolerance(min_sqnr=-np.inf)
            artifact = tfc.convert(model, path, calibration=data, tolerance=tolerance)
        else:
            reference = tfc.quantize_aware(model, scheme, calibration=data, verbose=False)
            artifact = tfc.export(reference, path, calibration=data, tolerance=np.inf)
        expected = reference.predict(data, verbose=0)
        file = LiteRTModel(artifact)
        predicted = file.predict(data)
        predicted = predicted if isinstance(predicted, list) else [predicted]
        answers = dict(zip([s.name for s in file.outputs], predicted, strict=True))
        floats = _float_operators(path)
        found = []
        for (_, wanted), spec in zip(sorted(expected.items()), file.outputs, strict=True):
            quanta = np.abs(answers[spec.name] - wanted) / (spec.scale or 1.0)
            found.append(
                Cell(float(quanta.max()), float(np.mean(quanta > 0.5)), tuple(floats[spec.name]))
            )
        return found


def _float_operators(path: Path) -> dict[str, list[str]]:
    """The float operators that each output of a file depends on."""
    from tfcompress.export.flatbuffer import Flatbuffer, read_tflite

    parsed = Flatbuffer(read_tflite(path)[1], str(path))
    makers = {name: op for op in parsed.operators for name in op.outputs}
    tensors = {a.index: a.spec.name for a in parsed.activations()}
    found: dict[str, list[str]] = defaultdict(list)
    for spec, index in zip(parsed.outputs, parsed.output_indices, strict=True):
        waiting, seen = [tensors[index]], set()
        while waiting:
            operator = makers.get(waiting.pop())
            if operator is None or operator.index in seen:
                continue
            seen.add(operator.index)
            if operator.role in ("float", "custom") and operator.name not in found[spec.name]:
                found[spec.name].append(operator.name)
            waiting += operator.inputs
    return found


def section(category: str, schemes: list[str]) -> list[str]:
    """The lines of one category's table."""
    blocks = support_blocks.CATEGORIES[category]
    names = list(blocks)
    columns = [cells(names, blocks, scheme) for scheme in schemes]
    lines = [f"## {category}", "", "| | " + " | ".join(SCHEMES[s] for s in schemes) + " |"]
    lines.append("|---" * (len(schemes) + 1) + "|")
    for name, *row in zip(names, *columns, strict=True):
        lines.append(f"| {name} | " + " | ".join(map(str, row)) + " |")
    return [*lines, ""]


def main() -> None:
    """Convert everything that is asked for and write or print the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--category", action="append", choices=support_blocks.CATEGORIES)
    parser.add_argument("--scheme", action="append", choices=SCHEMES)
    parser.add_argument("--print", action="store_true", help="print instead of writing the page")
    arguments = parser.parse_args()
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("tensorflow", "keras", "ai-edge-litert")
    )
    lines = [_HEAD.format(versions=versions, samples=support_blocks.SAMPLES)]
    for category in arguments.category or support_blocks.CATEGORIES:
        lines += section(category, arguments.scheme or list(SCHEMES))
        print("\n".join(lines[-1:] if not arguments.print else lines[-200:]), flush=True)
    if not arguments.print:
        aside = PAGE.with_suffix(".aside")
        aside.write_text("\n".join(lines))
        aside.replace(PAGE)


if __name__ == "__main__":
    main()
