"""Predict how long a New York taxi trip will take, and keep that prediction good."""

__version__ = "0.1.0"
