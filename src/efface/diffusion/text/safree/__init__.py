"""SAFREE: tokens that pull towards the concept are projected off it."""
