"""Erasers at sampling time, by guidance; one file a method."""
