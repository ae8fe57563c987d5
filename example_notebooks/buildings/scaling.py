"""Numbers on a common scale."""

from __future__ import annotations

import numpy as np
import pandas as pd


def standardized(values: pd.Series[float], mean: float, deviation: float) -> np.ndarray:
    """Return the values as float32 with the given mean and deviation taken out."""
    return ((values.to_numpy() - mean) / deviation).astype("float32")
