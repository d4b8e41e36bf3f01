"""The referee: the same accuracy, size and fidelity figures for a file of any library."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np


def accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Top-1 accuracy in percent."""
    return round(float(np.mean(outputs.argmax(-1) == labels)) * 100, 2)


def kernel_sparsity(model: Any) -> float:
    """Share of zeros over the kernels of all convolution and dense layers of a Keras model."""
    kernels = [np.asarray(w) for w in model.get_weights() if np.ndim(w) >= 2]
    zeros = sum(int(np.sum(kernel == 0)) for kernel in kernels)
    return round(zeros / sum(kernel.size for kernel in kernels), 4)


def litert_outputs(path: Path, images: np.ndarray) -> tuple[np.ndarray, float]:
    """Outputs of a `.tflite` file, one image at a time, with LiteRT's default kernels.

    Args:
        path: The file, with one float32, int8 or uint8 input and one such output.
        images: `(n, 32, 32, 3)` float32.

    Returns:
        Dequantized outputs `(n, classes)` float32 and the scale of the output, 0.0 if it is float.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    source, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    inputs = images
    if source["dtype"] != np.float32:
        scale, zero_point = source["quantization"]
        limits = np.iinfo(source["dtype"])
        inputs = np.clip(np.round(images / scale) + zero_point, limits.min, limits.max)
        inputs = inputs.astype(source["dtype"])
    outputs = []
    for image in inputs:
        # An LSTM operator goes on from the state in which the image before left it.
        interpreter.reset_all_variables()
        interpreter.set_tensor(source["index"], image[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(result["index"])[0])
    stacked = np.stack(outputs)
    if result["dtype"] == np.float32:
        return stacked, 0.0
    scale, zero_point = result["quantization"]
    return (stacked.astype(np.float32) - zero_point) * np.float32(scale), float(scale)


def file_sparsity(path: Path) -> float:
    """Share of zeros over the kernels of convolution and dense operations in a `.tflite` file.

    Kernels are float32 or symmetric int8, so that zero is stored as 0 in both.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    # Under the default delegate the operations are one opaque node without tensors.
    interpreter = Interpreter(
        model_path=str(path),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    kernels = []
    for operation in interpreter._get_ops_details():
        if operation["op_name"] in {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}:
            kernels.append(interpreter.get_tensor(operation["inputs"][1]))
    zeros = sum(int(np.sum(kernel == 0)) for kernel in kernels)
    return round(zeros / sum(kernel.size for kernel in kernels), 4)


def gzip_bytes(data: bytes) -> int:
    """Size of a file's content as it is sent: packed by gzip at its best."""
    return len(gzip.compress(data, 9, mtime=0))


def score(
    path: Path, keras_outputs: np.ndarray, images: np.ndarray, labels: np.ndarray
) -> dict[str, float | int]:
    """All figures of one file beside the Keras model that it was made from.

    Args:
        path: The `.tflite` file.
        keras_outputs: What the Keras model answers to `images`, `(n, classes)` float32.
        images: Test images, `(n, 32, 32, 3)` float32.
        labels: `(n,)` integers.

    Returns:
        Accuracies and agreement in percent, sizes in bytes, sparsity as a share, and the distance
        between the two models in steps of the output's scale (0 for a float output).
    """
    outputs, scale = litert_outputs(path, images)
    data = path.read_bytes()
    quanta = np.zeros_like(outputs)
    if scale:
        quanta = np.abs(outputs / scale - np.round(keras_outputs / scale))
    return {
        "keras_accuracy": accuracy(keras_outputs, labels),
        "tflite_accuracy": accuracy(outputs, labels),
        "bytes": len(data),
        "gzip_bytes": gzip_bytes(data),
        "file_sparsity": file_sparsity(path),
        "agreement": round(float(np.mean(outputs.argmax(-1) == keras_outputs.argmax(-1))) * 100, 2),
        "max_quanta": round(float(quanta.max()), 2),
        "mean_quanta": round(float(quanta.mean()), 4),
    }
