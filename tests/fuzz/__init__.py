"""Hostile input, made by machine: damaged files (`files`), odd arguments (`calls`), odd numbers (`scales`).

`python -m tests.fuzz` runs all of it for ten minutes (`make fuzz`); short seeded runs are in `tests/unit/test_fuzz.py`.
"""
