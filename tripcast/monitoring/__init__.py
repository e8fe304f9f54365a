"""Watching models in service: quality, drift, the rule that retrains, the live trial, history, alerts."""
