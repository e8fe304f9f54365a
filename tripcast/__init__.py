"""Predict how long a New York taxi trip will take, and keep that prediction good."""
