"""Judging models before they serve: scores and the gate."""
