"""Pure matrix functions: shrinkage, whitening factors with named rank rules, oblique projections, transport.

Nothing here knows of data, labels or erasers.
"""
