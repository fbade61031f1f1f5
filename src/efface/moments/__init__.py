"""What is kept of a data stream: first and second moments, per class too, quantiles; labels as columns."""
