"""matplotlib figures as SVG that lives inside a page: its fonts, its colours, its width."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from tfcompress.evaluation.palette import TONES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE = re.compile(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>')
_ID = re.compile(r' id="([^"]+)"')


def svg(axes: Axes, name: str, description: str) -> str:
    """Return the figure of some axes as an `<svg>` element.

    Colours of the palette become CSS variables, so that the plot follows a dark page. Text stays
    text, in the font of the page.

    Args:
        axes: What to render; its whole figure is.
        name: Unique within the page; makes the ids inside unique.
        description: What the plot shows, for screen readers.
    """
    import html

    import matplotlib

    content = io.StringIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": name}
    # Without a date, the same report gives the same page.
    with matplotlib.rc_context(settings):
        axes.get_figure().savefig(content, format="svg", transparent=True, metadata={"Date": None})
    text = content.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)
    text = _SIZE.sub(
        lambda match: (
            f'<svg viewBox="{match[1]}" role="img" aria-label="{html.escape(description)}" '
            'xmlns:xlink="http://www.w3.org/1999/xlink">'
        ),
        text,
        count=1,
    )
    text = _unique_ids(text, name)
    for tone in TONES:
        text = text.replace(tone.light, f"var({tone.variable})")
    return re.sub(r"\s*\n\s*", "\n", text)


def _unique_ids(text: str, name: str) -> str:
    """Drop ids that nothing refers to, and put the figure's name before the others."""
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    text = _ID.sub(lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text)
    return re.sub(r'((?:href="|url\()#)', rf"\g<1>{name}-", text)
