"""HTML elements from text: the one place where what users wrote is escaped."""

from __future__ import annotations

from html import escape

from .formats import clean

#: JupyterLab's theme where there is one, else colours that suit light and dark.
TRAINING = "var(--jp-brand-color1,#2b7de0)"
VALIDATION = "#e07b00"
RULE = "1px solid var(--jp-border-color2,rgba(128,128,128,.35))"
TRACK = "var(--jp-layout-color3,rgba(128,128,128,.3))"
TINT = "rgba(128,128,128,.12)"
FONT = "var(--jp-ui-font-family,system-ui,-apple-system,'Segoe UI',sans-serif)"
CODE = "var(--jp-code-font-family,ui-monospace,Menlo,Consolas,monospace)"
QUIET = "opacity:.75"

#: The colour of each tone that `phrases` gives.
TONES = {
    "busy": TRAINING,
    "good": "var(--jp-success-color1,#2e9e44)",
    "bad": "var(--jp-error-color1,#e0483e)",
    "warn": "var(--jp-warn-color1,#d98200)",
    "quiet": "var(--jp-ui-font-color2,#888)",
}


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def html_of(*content: str) -> Html:
    """Return the contents one after the other; all but `Html` is escaped."""
    return Html("".join(c if isinstance(c, Html) else escape(clean(c)) for c in content))


def element(tag: str, *content: str, style: str = "", **attributes: object) -> Html:
    """Return an HTML element.

    >>> element("td", "a < b", style="color:red", aria_label="sum")
    '<td style="color:red" aria-label="sum">a &lt; b</td>'
    """
    given = {"style": style} if style else {}
    given |= {name.replace("_", "-"): str(value) for name, value in attributes.items()}
    said = "".join(f' {name}="{escape(clean(value))}"' for name, value in given.items())
    return Html(f"<{tag}{said}>{html_of(*content)}</{tag}>")


def div(style: str, *content: str, **attributes: object) -> Html:
    """Return a div element."""
    return element("div", *content, style=style, **attributes)


def span(style: str, *content: str, **attributes: object) -> Html:
    """Return a span element."""
    return element("span", *content, style=style, **attributes)


def lines(text: str) -> Html:
    """Return text with its line breaks."""
    return Html(html_of(text).replace("\n", "<br>"))
