"""What every fit that takes steps of an optimiser shares: the step, its state, and its sources of randomness."""
