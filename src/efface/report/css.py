"""A style sheet that is meant for a page of its own, kept within one element of another page."""

from __future__ import annotations

import re

_RULE = re.compile(r"(?P<before>[{}]|^)(?P<space>\s*)(?P<selectors>[^{}@]+?)(?P<after>\s*\{)")
_ROOTS = (":root", "body")


def scoped(css: str, box: str) -> str:
    """The style sheet with every selector below `box`; the page itself (`:root`, `body`) becomes `box`.

    Understands rules and `@media`, which is what our own sheets have: no nesting, no commas within a selector.

    >>> scoped("body { margin: 0; } h1, .a > b { top: 0; } @media print { p { left: 0; } }", ".box")
    '.box { margin: 0; } .box h1, .box .a > b { top: 0; } @media print { .box p { left: 0; } }'
    """

    def replaced(rule: re.Match[str]) -> str:
        selectors = ", ".join(_below(box, selector.strip()) for selector in rule["selectors"].split(","))
        return f"{rule['before']}{rule['space']}{selectors}{rule['after']}"

    return _RULE.sub(replaced, css)


def _below(box: str, selector: str) -> str:
    return box if selector in _ROOTS else f"{box} {selector}"
