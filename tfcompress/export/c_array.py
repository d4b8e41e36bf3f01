"""A TFLite file as C++ source, for devices without a file system."""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path

from tfcompress.files import atomic_write_text

_BYTES_PER_LINE = 12
_KEYWORDS = frozenset(
    {"t", "alignas", "alignof", "and", "asm", "auto", "bool", "break", "case", "catch", "char",
     "class", "const", "constexpr", "continue", "default", "delete", "do", "double", "else",
     "enum", "explicit", "export", "extern", "false", "float", "for", "friend", "goto", "if",
     "inline", "int", "long", "mutable", "namespace", "new", "noexcept", "not", "nullptr",
     "operator", "or", "private", "protected", "public", "register", "return", "short", "signed",
     "sizeof", "static", "struct", "switch", "template", "this", "throw", "true", "try",
     "typedef", "typeid", "typename", "union", "unsigned", "using", "virtual", "void",
     "volatile", "while", "xor"}
)  # fmt: skip


def write_c_array(
    content: bytes, path: str | PathLike[str], name: str | None = None
) -> tuple[Path, Path]:
    """Write bytes as an array in a `.cc` file, and its declaration in a `.h` file beside it.

    The array is aligned to 16 bytes, which TensorFlow Lite for Microcontrollers needs.

    Args:
        content: What to write.
        path: Path of the `.cc` file; another suffix, or none, is replaced.
        name: Name of the array; `<name>_len` is its length. Default: made from the file's name.

    Returns:
        The paths of the `.cc` and the `.h` file.

    Raises:
        ValueError: If `name` is no identifier of C++.
        PermissionError: If the folder cannot be written to.

    Example:

    ```python
    write_c_array(Path("model.tflite").read_bytes(), "firmware/model.cc")
    ```
    """
    source = Path(path).expanduser().with_suffix(".cc")
    header = source.with_suffix(".h")
    if name is None:
        name = _identifier(source.stem)
    elif not _is_identifier(name):
        raise ValueError(
            "The name of an array must be an identifier of C++: letters, digits and underscores, "
            f"no digit in front, no keyword. Received: {name!r}"
        )
    guard = f"{name.upper()}_H_"
    values = [f"0x{byte:02x}" for byte in content]
    rows = [
        f"    {', '.join(values[start : start + _BYTES_PER_LINE])},"
        for start in range(0, len(values), _BYTES_PER_LINE)
    ]
    declaration = [
        f"#ifndef {guard}",
        f"#define {guard}",
        "",
        f"// A TFLite model of {len(content)} bytes.",
        f"extern const unsigned char {name}[];",
        f"extern const unsigned int {name}_len;",
        "",
        f"#endif  // {guard}",
    ]
    definition = [
        f'#include "{header.name}"',
        "",
        f"alignas(16) const unsigned char {name}[] = {{",
        *rows,
        "};",
        f"const unsigned int {name}_len = {len(content)};",
    ]
    atomic_write_text(header, "\n".join(declaration) + "\n")
    atomic_write_text(source, "\n".join(definition) + "\n")
    return source, header


def _identifier(stem: str) -> str:
    name = re.sub(r"\W", "_", stem, flags=re.ASCII)
    # Names with a leading underscore, or two in a row, belong to the compiler.
    name = re.sub(r"__+", "_", name).strip("_") or "model"
    if name[0].isdigit():
        name = f"model_{name}"
    return f"{name}_data" if name in _KEYWORDS else name


def _is_identifier(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) is not None and name not in _KEYWORDS
