"""The problem: how long a New York taxi trip takes. To predict something else, write this package anew."""
