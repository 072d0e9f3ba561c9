"""Measurements whose results are checked before they are timed."""
