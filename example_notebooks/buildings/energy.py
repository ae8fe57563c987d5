"""A made-up year of an office building's electricity."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .scaling import standardized

#: How many past hours the forecast sees.
HOURS = 24
HOLIDAYS = ["2025-01-01", "2025-04-18", "2025-04-21", "2025-05-01", "2025-12-25", "2025-12-26"]


def year(seed: int) -> pd.DataFrame:
    """Return hourly readings of 2025: electricity used and outside temperature."""
    random = np.random.default_rng(seed)
    hours = pd.date_range("2025-01-01", "2025-12-31 23:00", freq="h")
    day = np.asarray(hours.dayofyear, "float64")
    hour = np.asarray(hours.hour, "float64")
    season = -np.cos(2 * np.pi * (day - 15) / 365)
    daily = -np.cos(2 * np.pi * (hour - 4) / 24)
    temperature = 10 + 9 * season + 3 * daily + random.normal(0, 1.5, len(hours))
    open_day = (hours.dayofweek < 5) & ~hours.normalize().isin(pd.to_datetime(HOLIDAYS))
    working = np.exp(-(((hour - 13) / 4.5) ** 4)) * open_day
    heating = np.clip(15 - temperature, 0, None)
    used = 20 + 55 * working + 1.6 * heating + random.normal(0, 2, len(hours))
    return pd.DataFrame({"kwh": used, "celsius": temperature}, index=hours)


def examples(
    readings: pd.DataFrame, holidays: pd.Series[pd.Timestamp]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return inputs and target of the forecast: for each hour, the one that follows."""
    used = standardized(readings["kwh"], mean=41.0, deviation=24.0)
    past = np.lib.stride_tricks.sliding_window_view(used, HOURS)[:-1]
    hours = readings.index[HOURS:]
    week = (hours.dayofweek * 24 + hours.hour) / 168
    closed = hours.normalize().isin(holidays)
    celsius = standardized(readings["celsius"], mean=10.0, deviation=7.0)[HOURS:]
    inputs = {
        "week": np.asarray(week, "float32")[:, np.newaxis],
        "weather": np.stack([celsius, closed], axis=-1).astype("float32"),
        "past": past.astype("float32"),
    }
    return inputs, used[HOURS:]
