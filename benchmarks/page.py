"""Write `docs/benchmarks.md` from the results: python benchmarks/page.py."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
_HEAD = """# Benchmarks

<!-- Written by benchmarks/page.py from benchmarks/results/; do not edit. -->

Every table is from a file in `benchmarks/results/`, written by the command under it; `make bench`
runs them all. Rows that lose are shown like any other.
"""


def page() -> str:
    """Return the page: a section for each result, those that are known in their own form."""
    lines = [_HEAD]
    order = {stem: position for position, stem in enumerate(_SECTIONS)}
    for path in sorted(
        RESULTS.glob("*.json"), key=lambda p: (order.get(p.stem, len(order)), p.stem)
    ):
        document = json.loads(path.read_text(encoding="utf-8"))
        title, write = _SECTIONS.get(path.stem, (path.stem.replace("_", " "), _anything))
        lines += [f"## {title}", "", *write(document), "", _source(document), ""]
    return "\n".join(lines)


def _source(document: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {v}" for name, v in document.get("versions", {}).items())
    facts = [f"`{document['command']}`"] if "command" in document else []
    facts += [str(document[key]) for key in ("date",) if key in document]
    facts += [f"{document['processors']} processors"] if "processors" in document else []
    return f"<small>{'; '.join([*facts, versions])}</small>"


def _table(headings: list[str], rows: list[list[Any]]) -> list[str]:
    lines = ["| " + " | ".join(headings) + " |", "|---" * len(headings) + "|"]
    return [*lines, *("| " + " | ".join(_text(cell) for cell in row) + " |" for row in rows)]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value)) or "none"
    return str(value)


def _resnet8(document: dict[str, Any]) -> list[str]:
    columns = {
        "accuracy of the file, %": "tflite_accuracy",
        "of the Keras model, %": "keras_accuracy",
        "same class, %": "agreement",
        "bytes": "bytes",
        "gzip bytes": "gzip_bytes",
        "zeros": "file_sparsity",
    }
    rows = [
        [name, *(result.get(key) for key in columns.values())]
        for name, result in document["results"].items()
        if "bytes" in result
    ]
    return [
        "MLPerf Tiny's ResNet8 on the 10,000 test images of CIFAR-10: one float model, handed to",
        "both libraries with the same images, epochs, learning rates and pruning schedule. Rows of",
        "tfmot begin with its name.",
        "",
        *_table(["", *columns], rows),
    ]


def _step_time(document: dict[str, Any]) -> list[str]:
    rows = []
    for row in document["results"]:
        about = [row["library"], f"{row['model']}, batch {row['batch_size']}", row["jit"]]
        for technique, value in row.items():
            if isinstance(value, dict) and technique != "float":
                goal = [value.get("goal"), value.get("met")]
                rows.append([*about, technique, value["ratio"], *goal])
    headings = ["library", "model", "XLA", "technique", "time of a step over float", "goal", "met"]
    return ["Medians of interleaved training steps in one process.", "", *_table(headings, rows)]


def _evaluation_speed(document: dict[str, Any]) -> list[str]:
    row = [document[k] for k in ("bare_seconds", "evaluated_seconds", "ratio", "goal", "met")]
    text = f"{document['samples']:,} images through an int8 ResNet8 in batches of "
    return [
        f"{text}{document['batch_size']}, one thread: from float images to float probabilities,",
        "beside LiteRT's bare invoke loop over images that are quantized already.",
        "",
        *_table(["bare loop, s", "evaluation, s", "ratio", "goal", "met"], [row]),
    ]


def _post_training(document: dict[str, Any]) -> list[str]:
    methods = dict.fromkeys(name for row in document["results"].values() for name in row)

    def cell(network: str, method: str) -> str | None:
        found = document["results"][network].get(method)
        if found is None:
            return None
        return "fails" if "failed" in found else f"{found['accuracy']}, {found['bytes']:,} B"

    rows = [
        [method, *(cell(network, method) for network in document["results"])] for method in methods
    ]
    goals = [
        [goal["network"], goal["goal"], goal["lead"], goal["met"]] for goal in document["goals"]
    ]
    return [
        "Four trained networks, quantized without training: accuracy in percent, and bytes.",
        "Names that begin with `converter` and `aeq` are TensorFlow's converter and",
        "ai-edge-quantizer; the channels of `mobilenet_v2_unequal` were given unequal ranges.",
        "",
        *_table(["", *document["results"]], rows),
        "",
        *_table(["network", "goal", "points", "met"], goals),
    ]


def _sparsity(document: dict[str, Any]) -> list[str]:
    titles = {
        "float": "as it was trained",
        "dense": "trained on, nothing removed",
        "unstructured_80": "80 % zeros",
        "unstructured_90": "90 % zeros",
        "two_of_four": "2 of 4",
        "half_macs": "half of the MACs, channels removed at once",
        "half_macs_gradual": "half of the MACs, channels removed during training",
        "fewer_layers": "residual blocks removed",
    }
    lines = [
        "CIFAR-10, 10,000 test images. All rows of a network start from the same float weights and",
        "train for the same few epochs; the int8 files are quantized after training. Time of an",
        "invocation in one thread beside that of the dense file of the same type.",
    ]
    for network, rows in document["results"].items():
        if len(rows) < 2:
            continue
        cells = []
        for name in (name for name in titles if name in rows):
            row = rows[name]
            cells.append([titles[name], row["parameters"], row["macs"]])
            for kind in ("float32", "int8"):
                found, dense = row[kind], rows["float"][kind]
                ratio = ""
                if "milliseconds" in found:
                    ratio = f"{found['milliseconds'] / dense['milliseconds']:.2f}"
                cells[-1] += [found["accuracy"], found["bytes"], found["gzip_bytes"], ratio]
        heads = ("accuracy, %", "bytes", "gzip bytes", "time")
        columns = [f"{kind}: {head}" for kind in ("float", "int8") for head in heads]
        training = document["training"][network]
        goals = [
            [titles[goal["row"]], goal["figure"], goal["is"], goal["most"], goal["met"]]
            for goal in document["goals"][network]
        ]
        lines += ["", f"**{network}, {training['epochs']} epochs a row**", ""]
        lines += [*_table(["", "parameters", "MACs", *columns], cells), ""]
        lines += _table(["row", "figure", "is", "goal: at most", "met"], goals)
    return lines


def _user_code(document: dict[str, Any]) -> list[str]:
    libraries = {
        "tfcompress": "tfcompress",
        "tfmot": "tfmot",
        "converter": "TensorFlow's converter",
        "aeq": "ai-edge-quantizer",
    }
    jobs = {
        "post_training": "post-training int8",
        "quantization_aware": "quantization-aware training",
        "prune": "pruning to 80 %, then post-training int8",
        "prune_quantize": "pruning to 80 %, then quantization-aware training",
        "report": "report of scores, sizes and latency beside the float model",
    }

    def cell(job: str, library: str) -> str:
        row = document["results"][job]
        found = row.get(library, row.get("peers"))
        if "reason" in found:
            return found["reason"]
        checks = found["verification"]
        return f"{found['lines']}" + (f", of these {checks} that verify" if checks else "")

    rows = [[title, *(cell(job, library) for library in libraries)] for job, title in jobs.items()]
    return [
        "From a trained and compiled model to an int8 file that was compared with its model, which",
        "tfcompress does in `export` and `convert`. The scripts are the files of",
        "`benchmarks/user_jobs/`; each was run, and its file judged. Blank lines, comments, the",
        "import of NumPy and the first line of the function are not counted. No peer writes a",
        "report: theirs is one script by hand with scikit-learn, without plots.",
        "",
        *_table(["lines of user code", *libraries.values()], rows),
    ]


def _latency(document: dict[str, Any]) -> list[str]:
    lines = [
        "Median processor time of an invocation at batch 1 in one thread, all files of a network",
        f"in turns, and its ratio to the float file, on {document['processor']}. Names without",
        "`tfmot`, `converter` or `aeq` in them are tfcompress. LiteRT's fast kernels know no 4-bit",
        "convolutions, and int8 pays where the processor has integer dot products.",
    ]
    for network, found in document["results"].items():
        rows = [
            [name, row.get("milliseconds", "fails"), row.get("ratio")]
            for name, row in found.items()
        ]
        lines += ["", f"**{network}**", "", *_table(["", "ms", "time over float"], rows)]
    return lines


def _coverage(document: dict[str, Any]) -> list[str]:
    ours, peers = (document["results"][name] for name in ("tfcompress", "tfmot"))
    facts = ("parameters", "wrap_seconds", "export_seconds", "max_quanta")
    rows = [
        [name, peers[name]["verdict"], row["verdict"], *(row.get(fact) for fact in facts)]
        for name, row in ours.items()
    ]
    counts = [
        f"{sum(row['verdict'] == 'int8' for row in library.values())} of {len(library)}"
        for library in (ours, peers)
    ]
    return [
        "The smallest network of each family in `keras.applications`, with random weights at 64 or",
        "96 pixels: wrapped for quantization-aware training, trained for a step and exported.",
        f"Wholly int8 are {counts[0]} with tfcompress and {counts[1]} with tfmot. Seconds and the",
        "distance of the file from the Keras model, in steps of its output scale, are those of",
        "tfcompress.",
        "",
        *_table(["network", "tfmot", "tfcompress", *map(_spaced, facts)], rows),
    ]


def _shrinking(document: dict[str, Any]) -> list[str]:
    def share(row: dict[str, Any], fact: str) -> str:
        before, after = row[fact]
        return f"{before:,} → {after:,} ({after / before:.1%})"

    rows = []
    for name, row in document["results"].items():
        if "failed" in row:
            rows.append([name, "fails", row["failed"].strip().splitlines()[-1]])
            continue
        cells = [row["groups"], share(row, "parameters"), share(row, "macs"), f"{row['error']:.1e}"]
        islands = row.get("int8", {}).get("float_operators")
        rows.append([name, *cells, row["loss"], row["seconds"], islands])
    headings = ["groups", "parameters", "MACs", "error", "loss", "seconds", "float operators"]
    return [
        "The same networks, shrunk to half of their operations by removing channels, beside the",
        "dense network whose same channels are zero: largest difference of the logits, relative to",
        "the largest logit. Each then trained for a step, and was wrapped and exported as int8.",
        "",
        *_table(["network", *headings], rows),
    ]


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _anything(document: dict[str, Any]) -> list[str]:
    """Return a result of no known form: its figures by dotted name, its lists as tables."""
    told = {"command", "date", "python", "processors", "versions"}
    rest = {key: value for key, value in document.items() if key not in told}
    lines: list[str] = []
    for name, rows in _lists(rest):
        keys = list(dict.fromkeys(key for row in rows for key in row))
        lines += [f"**{name}**", "", *_table(keys, [[r.get(k) for k in keys] for r in rows]), ""]
    figures = [[name, value] for name, value in _figures(rest)]
    return [*lines, *(_table(["", ""], figures) if figures else [])]


def _lists(values: Any, prefix: str = "") -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _lists(value, f"{prefix}{key}.")
        elif _is_table(value):
            yield f"{prefix}{key}", [dict(_figures(row)) for row in value]


def _figures(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _figures(value, f"{prefix}{key}.")
        elif not _is_table(value):
            yield f"{prefix}{key}".replace("_", " "), value


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


_SECTIONS: dict[str, tuple[str, Callable[[dict[str, Any]], list[str]]]] = {
    "resnet8_cifar10": ("Accuracy and size beside tensorflow-model-optimization", _resnet8),
    "ptq": ("Post-training quantization beside its peers", _post_training),
    "sparsity": ("What each kind of sparsity pays", _sparsity),
    "user_code": ("Lines of user code", _user_code),
    "coverage": ("Networks of keras.applications", _coverage),
    "shrink_coverage": ("Half of the operations of keras.applications", _shrinking),
    "latency": ("Latency beside the float file", _latency),
    "step_time": ("Time of a training step", _step_time),
    "evaluation_speed": ("Speed of the evaluation", _evaluation_speed),
}


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
