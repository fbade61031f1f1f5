"""Small worlds with known truth: a table and sentences to erase from."""
