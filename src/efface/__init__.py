"""efface: take a concept out of a model, prove that it is gone, show what else went with it."""
