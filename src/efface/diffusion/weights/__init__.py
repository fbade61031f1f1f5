"""Erasers in the weights of a pipeline: each leaves behind a change of parameters, which is undone exactly."""
