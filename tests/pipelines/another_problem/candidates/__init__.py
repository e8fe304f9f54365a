"""What can be trained: one module a candidate."""

CANDIDATES = {"linear": "tripcast.taxi.candidates.linear"}
