"""Times as text, in the forms that trip records have been exported in.

Besides ISO 8601 these are the city's open-data portal (``01/31/2021 11:59:59 PM``, lately ``2021 Jan 31 11:59:59 PM``)
and Excel (``1/31/2021 23:59``). Month before day, as New York writes it. A zone behind the time is left out: it is the
wall clock that counts, see ``tripcast.taxi.ingestion``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

#: What people are asked to write.
WANTED = "2021-01-31 23:59:59"

_CLOCK = (
    r"[ T]+(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?P<fraction>\.\d{1,9})?)?"
    r"(?: ?(?P<half>[AaPp])[Mm])?"
    r"(?P<zone> ?(?:Z|UTC|GMT|[+-]\d{2}:?\d{2}|[A-Z][A-Za-z]+/[A-Za-z_/]+))?"
)
_FORMS = (
    rf"^(?P<year>\d{{4}})-(?P<month>\d{{1,2}})-(?P<day>\d{{1,2}})(?:{_CLOCK})?$",
    rf"^(?P<month>\d{{1,2}})/(?P<day>\d{{1,2}})/(?P<year>\d{{4}}|\d{{2}}){_CLOCK}$",
    rf"^(?P<year>\d{{4}}) (?P<month>[A-Z][a-z]{{2}}) (?P<day>\d{{1,2}}){_CLOCK}$",
)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def parse_times(text: pa.Array) -> tuple[pa.Array, str]:
    """Read times as text, whatever their form.

    Args:
        text: Strings (n,).

    Returns:
        timestamp[us] (n,), null where a value is no time in one of the forms; and the zone that is written behind the
        first value that has one, empty if none has.
    """
    kind = pa.timestamp("us")
    try:
        return text.cast(kind), ""
    except pa.ArrowInvalid:
        pass
    text = pc.utf8_trim(text, characters=" \t\"'\u00a0")
    times, known, zone = np.zeros(len(text), "datetime64[us]"), np.zeros(len(text), bool), ""
    for form in _FORMS:
        found = pc.extract_regex(text, form)
        matched = found.is_valid().to_numpy(zero_copy_only=False)
        if not matched.any():
            continue
        fields = {name: found.field(place) for place, name in enumerate(found.type.names)}
        moments, real = _moments(fields)
        known |= matched & real
        times[matched & real] = moments[matched & real]
        zones = fields["zone"].filter(pc.greater(pc.utf8_length(fields["zone"].fill_null("")), 0))
        zone = zone or (zones[0].as_py().strip() if len(zones) else "")
    return pa.array(times, kind, mask=~known), zone


def _moments(fields: dict[str, pa.Array]) -> tuple[npt.NDArray[np.datetime64], npt.NDArray[np.bool_]]:
    """The moments that matched fields make (datetime64[us] (n,)), and whether there is such a moment (bool (n,))."""
    year, day, hour, minute, second = (_numbers(fields[name]) for name in ("year", "day", "hour", "minute", "second"))
    year = np.where(year < 100, year + 2000, year)
    month = _months(fields["month"])
    half = fields["half"].fill_null("").to_numpy(zero_copy_only=False)
    halved = half != ""
    twelve = ~halved | ((hour >= 1) & (hour <= 12))
    hour = np.where(halved, hour % 12 + 12 * np.isin(half, ("p", "P")), hour)
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + (day - 1).astype("timedelta64[D]")
    real = (month >= 1) & (month <= 12) & (days.astype("datetime64[M]") == months) & twelve
    real &= (hour < 24) & (minute < 60) & (second < 60)
    seconds = (hour * 3600 + minute * 60 + second).astype("timedelta64[s]")
    return days + seconds + _microseconds(fields["fraction"]), real


def _numbers(text: pa.Array) -> npt.NDArray[np.int64]:
    """The whole numbers that digits write, 0 for none: int64 (n,)."""
    text = text.fill_null("")
    numbers: npt.NDArray[np.int64] = pc.if_else(pc.equal(text, ""), "0", text).cast(pa.int64()).to_numpy()
    return numbers


def _months(text: pa.Array) -> npt.NDArray[np.int64]:
    """Months as numbers, from digits or English names; 0 for no month: int64 (n,)."""
    names = pa.array(_MONTHS)
    named = pc.fill_null(pc.add(pc.index_in(text, names), 1), 0)
    digits = pc.match_substring_regex(text.fill_null(""), r"^\d+$")
    months: npt.NDArray[np.int64] = _numbers(pc.if_else(digits, text, "0")) + named.to_numpy()
    return months


def _microseconds(fraction: pa.Array) -> npt.NDArray[np.timedelta64]:
    """Fractions of a second such as ``.25``, to the microsecond: timedelta64[us] (n,)."""
    digits = pc.utf8_slice_codeunits(pc.utf8_rpad(pc.utf8_ltrim(fraction.fill_null(""), characters="."), 6, "0"), 0, 6)
    return _numbers(digits).astype("timedelta64[us]")
