"""Colours of HTML reports: those of JupyterLab's theme, else ones that suit light and dark."""

from __future__ import annotations

TRAINING = "var(--jp-brand-color1,#2b7de0)"
VALIDATION = "#e07b00"
RULE = "var(--jp-border-color2,rgba(128,128,128,.35))"

#: The colour of each tone that `phrases` gives.
TONES = {
    "busy": TRAINING,
    "good": "var(--jp-success-color1,#2e9e44)",
    "bad": "var(--jp-error-color1,#e0483e)",
    "warn": "var(--jp-warn-color1,#d98200)",
    "quiet": "var(--jp-ui-font-color2,#888)",
}
