"""Where models registered by tripcast 0.1.0 look for their MLflow flavour; it lives in ``tripcast.taxi.pyfunc``."""

from tripcast.taxi.pyfunc import _load_pyfunc

__all__ = ["_load_pyfunc"]
