"""The commands on real files."""

import json

import numpy as np
import pytest

from tfcompress.cli.main import FAILED, OK, USAGE, main


@pytest.fixture(scope="module")
def folder(tmp_path_factory, digits):
    """A folder with `float.keras`, `samples.npz` and `int8.tflite`, the last made by `convert`."""
    import keras

    folder = tmp_path_factory.mktemp("cli")
    keras.utils.set_random_seed(0)
    layers = [keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3, activation="relu", name="conv")]
    layers += [
        keras.layers.Flatten(),
        keras.layers.Dense(10, name="logits"),
        keras.layers.Softmax(),
    ]
    model = keras.Sequential(layers, name="tiny")
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(*digits.train, epochs=2, verbose=0)
    model.save(folder / "float.keras")
    np.savez(folder / "samples.npz", x=digits.train.x[:64])
    arguments = ["convert", folder / "float.keras", "-o", folder / "int8.tflite"]
    arguments += [f"--calibration={folder / 'samples.npz'}"]
    assert main(["tfcompress", *map(str, arguments)]) == OK
    return folder


def output_of(capsys, *arguments):
    capsys.readouterr()
    assert main(["tfcompress", *map(str, arguments)]) == OK
    return capsys.readouterr().out


def test_convert_wrote_the_file_and_its_sidecar(folder):
    sidecar = json.loads((folder / "int8.tflite.json").read_text())
    assert sidecar["bytes"] == (folder / "int8.tflite").stat().st_size
    assert sidecar["scheme"] == "int8"


def test_inspect(folder, capsys):
    text = output_of(capsys, "inspect", folder / "int8.tflite")
    assert "CONV_2D" in text
    data = json.loads(output_of(capsys, "inspect", folder / "int8.tflite", "--json"))
    assert data["bytes"] == (folder / "int8.tflite").stat().st_size
    assert data["float_islands"] == []


def test_compare_names_entries_by_file_or_as_told(folder, capsys):
    arguments = [folder / "float.keras", f"small={folder / 'int8.tflite'}", "--data=digits"]
    arguments += ["--nolatency", f"--html={folder / 'report.html'}"]
    text = output_of(capsys, "compare", *arguments)
    assert "float" in text
    assert "small" in text
    assert (folder / "report.html").read_text().lstrip().lower().startswith("<!doctype html>")
    data = json.loads(output_of(capsys, "compare", *arguments, "--json"))
    assert [entry["name"] for entry in data["entries"]] == ["float", "small"]


def test_plan(folder, capsys):
    text = output_of(capsys, "plan", folder / "float.keras", "--scheme=int8")
    assert "conv/kernel" in text
    recipe = folder / "r.yaml"
    recipe.write_text(
        "version: 1\nname: r\ndata: {source: digits}\nmodel: {architecture: digits_cnn}\n"
        "train: {epochs: 1}\nprune: {sparsity: 0.5, exclude: [logits]}\nquantize: {epochs: 1}\n"
    )
    arguments = ("plan", folder / "float.keras", f"--recipe={recipe}", "--json")
    rows = {row["tensor"]: row for row in json.loads(output_of(capsys, *arguments))["rows"]}
    assert rows["conv/kernel"]["actions"]["prune"]["sparsity"] == 0.5
    assert "prune" in rows["logits/kernel"]["skipped"]
    assert "quantize" in rows["logits/kernel"]["actions"]


def test_a_truncated_file_is_one_clear_message(folder, capsys):
    broken = folder / "broken.tflite"
    broken.write_bytes((folder / "int8.tflite").read_bytes()[:200])
    for arguments in (["inspect", broken], ["compare", broken, "--data=digits"]):
        assert main(["tfcompress", *map(str, arguments)]) == FAILED
        error = capsys.readouterr().err
        assert "broken.tflite" in error
        assert "Traceback" not in error


@pytest.mark.parametrize("content", [b"", b"not a model at all, but a letter"])
def test_a_file_that_is_no_model(content, folder, capsys):
    path = folder / "letter.tflite"
    path.write_bytes(content)
    assert main(["tfcompress", "inspect", str(path)]) == FAILED
    assert "letter.tflite" in capsys.readouterr().err


def test_convert_with_samples_of_the_wrong_shape_leaves_the_file_alone(folder, capsys):
    np.savez(folder / "wrong.npz", x=np.zeros((8, 5, 5, 1), "float32"))
    before = (folder / "int8.tflite").read_bytes()
    arguments = ["convert", folder / "float.keras", "-o", folder / "int8.tflite"]
    arguments += ["-c", folder / "wrong.npz"]
    assert main(["tfcompress", *map(str, arguments)]) == FAILED
    assert "shape" in capsys.readouterr().err
    assert (folder / "int8.tflite").read_bytes() == before


def test_samples_that_are_no_archive(folder, capsys):
    (folder / "fake.npz").write_bytes(b"PK not really")
    arguments = ["convert", folder / "float.keras", "-o", folder / "x.tflite"]
    assert main(["tfcompress", *map(str, arguments), "-c", str(folder / "fake.npz")]) == FAILED
    assert "it must hold plain arrays" in capsys.readouterr().err
    assert not (folder / "x.tflite").exists()


@pytest.mark.parametrize("flags", [["--calibration=nothing.npz"], ["--scheme=float32"]])
def test_convert_never_writes_over_its_source(flags, folder, capsys):
    before = (folder / "float.keras").read_bytes()
    arguments = ["convert", folder / "float.keras", "-o", folder / "float.keras", *flags]
    assert main(["tfcompress", *map(str, arguments)]) == USAGE
    assert "is the source, which must stay as it is" in capsys.readouterr().err
    assert (folder / "float.keras").read_bytes() == before


def test_convert_refuses_a_signature_where_there_is_none(folder, capsys):
    arguments = ["convert", folder / "float.keras", "-o", folder / "x.tflite", "--signature=foo"]
    assert main(["tfcompress", *map(str, arguments), "--scheme=float32"]) == USAGE
    assert "signatures of a SavedModel" in capsys.readouterr().err
    assert not (folder / "x.tflite").exists()


def test_convert_takes_ranges_that_the_callback_learned(folder, digits, capsys):
    import keras

    import tfcompress as tfc

    model = keras.models.load_model(folder / "float.keras")
    samples = digits.train.x[:64]
    callback = tfc.callbacks.QuantizationAwareTraining(begin=0, calibration=samples)
    model.fit(samples, digits.train.y[:64], epochs=1, verbose=0, callbacks=[callback])
    model.save(folder / "trained.keras")
    arguments = ["convert", folder / "trained.keras", "-o", folder / "trained.tflite", "--json"]
    data = json.loads(output_of(capsys, *arguments))
    assert data["fidelity"]["source"] == "random within the input range"
    assert data["fidelity"]["max_quanta"] <= 4
