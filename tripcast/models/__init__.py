"""Models: what can be trained, and the folder that a trained one is kept in."""

from tripcast.models.model import Calibration, Manifest, Model, Prediction

__all__ = ["Calibration", "Manifest", "Model", "Prediction"]
