"""Erasers of vectors, one file a method; `efface.methods("rows")` lists them."""
