import io
import sys

from tfcompress.progress import progress_bar, waiting


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_silent_where_nobody_watches(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar(3) as advance, waiting("for nothing"):
        advance("step", 1)
    assert stream.getvalue() == ""


def test_a_terminal_shows_one_display_at_a_time(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar(4) as advance:
        with progress_bar(7) as inner:
            inner("within", 7)
        advance("measuring", 4)
    text = stream.getvalue()
    assert "measuring" in text
    assert "within" not in text
    with waiting("converting"):
        pass
    assert "converting" in stream.getvalue()


def test_can_be_turned_off(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar(4, enabled=False) as advance, waiting("on", enabled=False):
        advance("measuring", 4)
    assert stream.getvalue() == ""
