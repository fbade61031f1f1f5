"""Erasers that edit the prompt's embedding."""
