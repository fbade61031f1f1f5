"""A toy method of each subject, each in one file: all that a new method needs to pass the shared suite."""

from tests.toys import classifier, model, pipeline, rows, weights

TOYS = (rows.METHOD, model.METHOD, pipeline.METHOD, weights.METHOD, classifier.METHOD)
