"""Probes that look for a concept that is said to be gone, each calibrated against models that never knew it."""
