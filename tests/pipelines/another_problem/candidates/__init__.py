"""What can be trained: one module a candidate."""
