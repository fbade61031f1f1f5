"""Statistics that several rooms read: intervals, the area under the ROC curve, calibration of scores."""
