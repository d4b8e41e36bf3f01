"""How `tfcompress convert` reads schemes."""

import pytest

from tfcompress.cli.convert import _scheme
from tfcompress.cli.main import USAGE, main


def test_schemes_are_names_or_yaml():
    assert _scheme("w4a8") == "w4a8"
    assert _scheme("{default: int8, head: float}") == {"default": "int8", "head": "float"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--scheme=w4a8"], "--scheme=w4a8 needs --calibration"),
        (["--scheme=float16", "--diagnose"], "--diagnose is for 8-bit activations"),
        (["--scheme={default: int8", "-c", "digits"], "--scheme is no YAML mapping"),
        (["--effort=utmost"], "utmost"),
    ],
)
def test_bad_command_lines(flags, message, capsys):
    assert main(["tfcompress", "convert", "m.keras", "-o", "m.tflite", *flags]) == USAGE
    assert message in capsys.readouterr().err
