"""What can be trained: one module a candidate."""

#: The candidates by name, and the module of each, which keeps to ``tripcast.models.model.Candidate``.
CANDIDATES = {
    "linear": "tripcast.taxi.candidates.linear",
    "lightgbm": "tripcast.taxi.candidates.lightgbm",
    "tuned": "tripcast.taxi.candidates.tuned",
}
