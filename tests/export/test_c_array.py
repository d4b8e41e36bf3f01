import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tfcompress.export.c_array import write_c_array


def bytes_in(source: Path) -> bytes:
    return bytes(int(value, 16) for value in re.findall(r"0x([0-9a-f]{2})", source.read_text()))


def test_array_and_its_declaration(tmp_path: Path, int8_artifact):
    source = int8_artifact.to_c_array(tmp_path / "my-model v2.tflite")
    header = tmp_path / "my-model v2.h"
    content = int8_artifact.path.read_bytes()
    assert source == tmp_path / "my-model v2.cc"
    assert bytes_in(source) == content
    text = source.read_text()
    assert "alignas(16) const unsigned char my_model_v2[] = {" in text
    assert f"const unsigned int my_model_v2_len = {len(content)};" in text
    assert '#include "my-model v2.h"' in text
    assert "extern const unsigned char my_model_v2[];" in header.read_text()
    if shutil.which("c++"):
        command = ["c++", "-std=c++17", "-Wall", "-Werror", "-fsyntax-only", str(source)]
        subprocess.run(command, check=True)


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("model", "model"),
        ("2net", "model_2net"),
        ("int", "int_data"),
        ("__a__b", "a_b"),
        ("§", "model"),
    ],
)
def test_names_are_identifiers(stem, name, tmp_path: Path):
    source, _ = write_c_array(b"\x00\xff", tmp_path / f"{stem}.cc")
    assert f"char {name}[]" in source.read_text()


def test_bad_names(tmp_path: Path):
    for name in ("2net", "a-b", "int", ""):
        with pytest.raises(ValueError, match="identifier"):
            write_c_array(b"", tmp_path / "m.cc", name)
    assert list(tmp_path.iterdir()) == []
