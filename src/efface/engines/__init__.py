"""Fits of rows that are too many for memory: in one process from files and data sets (`local`)."""
