"""A simulated city: taxi trips whose law is known, in the publisher's own schema. Columns that nobody reads are empty.

Real months say how well a model does; they never say how well it could do. This city does. Every trip is drawn from
written-down rules (places, streets, rivers, traffic by the hour, chance), so the best prediction that anybody could
make, and its error, follow from a formula. It also changes on command, month by month, so that a system that claims to
notice can be put to the test.

The law of a trip:

* Its hour follows the week's demand; its zones follow their popularity and how near they are to each other.
* Its distance is the route's, by streets and bridges, times a log-normal detour.
* Its duration is a median, given by distance, zones and hour, times log-normal chance.
* Some records are then spoiled, as in the real months: distances of zero or of thousands of miles, meters that ran for
  seconds or all day, pickups dated years away, fields left empty.

The zones' numbers, names, boroughs and places are the real ones, and so are the bridges. How popular a zone is, and how
fast its streets are, is drawn by the seed.
"""

from tripcast.taxi.simulation.city import City
from tripcast.taxi.simulation.drift import Drift
from tripcast.taxi.simulation.schemas import SCHEMAS

__all__ = ["SCHEMAS", "City", "Drift"]
