"""Fits of rows that are too many for memory, or for one machine.

In one process from files and data sets (`local`), in tasks of Ray (`ray`), and on any other engine by `parts`, which
needs none: what a fit is asked for, the sums of a part of the rows, and their merge along a `tree`. `writing` erases
files into a folder, each once.
"""
