"""How a number is written, wherever it is shown."""

from __future__ import annotations

from efface.core.doors import check_call

DASH = "–"
"""What stands where there is no number."""
_SMALL = 5e-4


def format_value(value: float, unit: str = "") -> str:
    """A number as it is shown: shares in per cent, anything else with three decimals and its unit.

    Of standard deviations the small ones are what matters, so that they are not rounded to nothing.

    >>> format_value(0.5316, "share"), format_value(0.5316, "bits"), format_value(-1e-9), format_value(1.6e-7, "sd")
    ('53.2%', '0.532 bits', '0.000', '1.6e-07 sd')
    """
    check_call(format_value, locals())
    if unit == "sd" and 0 < abs(value) < _SMALL:
        return f"{value:.1e} {unit}"
    scaled, digits = (100 * value, 1) if unit == "share" else (value, 3)
    # Adding zero turns -0.0 into 0.0.
    text = f"{round(scaled, digits) + 0.0:.{digits}f}"
    return f"{text}%" if unit == "share" else f"{text} {unit}".strip()
