"""CGCE: a trained classifier finds the concept, and its gradient leads out of it."""
