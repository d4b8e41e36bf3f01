"""Finding commands, help, exit codes and messages."""

import io

import pytest

from tfcompress.cli.colours import coloured, highlighted
from tfcompress.cli.main import COMMANDS, FAILED, OK, USAGE, main


def test_overview_lists_every_command(capsys):
    assert main(["tfcompress", "--help"]) == OK
    text = capsys.readouterr().out
    for name in COMMANDS:
        assert f"\n  {name} " in text
    assert max(map(len, text.splitlines())) <= 88


def test_nothing_given_shows_the_overview_and_is_a_usage_error(capsys):
    assert main(["tfcompress"]) == USAGE
    assert "Usage: tfcompress <command>" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_is_short_and_has_examples(name, capsys):
    assert main(["tfcompress", name, "--help"]) == OK
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert lines[0].startswith(f"Usage: tfcompress {name} ")
    assert "--json" in text
    assert f"  tfcompress {name} " in text[text.index("Examples:") :]
    assert len(lines) <= 80
    assert max(map(len, lines)) <= 88
    assert main(["tfcompress", "help", name]) == OK
    assert capsys.readouterr().out == text


def test_version(capsys):
    assert main(["tfcompress", "--version"]) == OK
    assert capsys.readouterr().out.startswith("tfcompress 0.")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rnu"], "unknown command 'rnu'; did you mean `run`?"),
        (["run"], "tfcompress run: expected one recipe, a YAML file. Received: nothing"),
        (["run", "a.yaml", "b.yaml"], "Received: a.yaml b.yaml"),
        (["run", "a.yaml", "--ouput=x"], "Did you mean: output"),
        (["plan", "m.keras"], "give either --recipe=FILE or --scheme=NAME"),
        (["plan", "m.keras", "--recipe=r.yaml", "--scheme=int8"], "give either"),
        (["convert", "m.keras"], "--output=FILE.tflite is required"),
        (["convert", "m.keras", "-o", "m.tflite"], "--scheme=int8 needs --calibration"),
        (["compare", "--data=digits"], "expected models to compare"),
        (["compare", "a.tflite"], "--data=digits"),
        (["compare", "a=x.tflite", "a=y.tflite", "--data=digits"], "'a' is given to two models"),
        (["compare", "a.tflite", "--data=digits", "--threads=0"], "threads"),
        (["inspect"], "expected one .tflite file"),
    ],
)
def test_a_wrong_command_line_exits_with_2_and_says_why(arguments, said, capsys):
    assert main(["tfcompress", *arguments]) == USAGE
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "gone.yaml"], "There is no such recipe file. Received: gone.yaml"),
        (["plan", "gone.keras", "--scheme=int8"], "There is no model file of this name"),
        (["inspect", "gone.tflite"], "gone.tflite"),
        (["convert", "gone.keras", "-o", "m.tflite", "-c", "gone.npz"], "gone.npz"),
        (["compare", "gone.tflite", "--data=digits"], "gone.tflite"),
        (["compare", "gone.tflite", "--data=digist"], "Did you mean 'digits'?"),
    ],
)
def test_a_failed_job_exits_with_1_in_one_message(arguments, said, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["tfcompress", *arguments]) == FAILED
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.startswith(f"tfcompress {arguments[0]}: ")
    assert "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(capsys):
    assert main(["tfcompress", "run", "gone.yaml", "--debug"]) == FAILED
    assert "Traceback" in capsys.readouterr().err


def test_a_recipe_error_names_the_line(capsys, tmp_path):
    (tmp_path / "r.yaml").write_text("version: 1\nname: x\nmodle: {architecture: resnet8}\n")
    assert main(["tfcompress", "run", str(tmp_path / "r.yaml")]) == FAILED
    error = capsys.readouterr().err
    assert "r.yaml, line 3: unknown key `modle` at the top level; did you mean `model`?" in error


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_colours_are_for_terminals_only(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    table = "size  file\n----------\nfloat 4 kB"
    assert highlighted(table, io.StringIO()) == table
    lines = highlighted(table, Terminal()).split("\n")
    assert lines[0] == "\033[1msize  file\033[0m"
    assert lines[2] == "float 4 kB"
    monkeypatch.setenv("NO_COLOR", "1")
    assert highlighted(table, Terminal()) == table
    assert coloured("x", "red", Terminal()) == "x"


def test_exit_codes_are_documented(capsys):
    for arguments in (["--help"], ["inspect", "--help"]):
        assert main(["tfcompress", *arguments]) == OK
        text = capsys.readouterr().out
        assert "Exit codes: 0 done, 1" in text
        assert "130 interrupted" in text
