"""Does every method compute what it computed at a recorded commit, bit for bit? `python -m benchmarks.identity`."""
