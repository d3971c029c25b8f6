"""Floor 3, rewards: units of one kind.

What enters: a number and the canonical name of its unit (see `numbers`), `cm`, `m^2`, `km per h`. What leaves: the same amount
in the kind's first unit, exact, or none for units that are not measures (apples). 2 hours are 120 minutes, 36 inches 3 feet.
"""

from fractions import Fraction

_INCH = Fraction("0.0254")
_KINDS = (
  {"s": 1, "min": 60, "h": 3600, "day": 86_400, "week": 604_800},
  {
    "m": 1, "mm": Fraction(1, 1000), "cm": Fraction(1, 100), "dm": Fraction(1, 10), "km": 1000,
    "in": _INCH, "ft": 12 * _INCH, "yd": 36 * _INCH, "mi": 63_360 * _INCH,
  },
  {"g": 1, "mg": Fraction(1, 1000), "kg": 1000, "lb": Fraction("453.59237"), "oz": Fraction("453.59237") / 16},
  {"l": 1, "ml": Fraction(1, 1000), "cl": Fraction(1, 100), "dl": Fraction(1, 10)},
  {"dollar": 1, "cent": Fraction(1, 100)},
)  # fmt: skip
_FACTORS = {name: (kind, Fraction(factor)) for kind, names in enumerate(_KINDS) for name, factor in names.items()}


def measured(value: Fraction, unit: str) -> tuple[Fraction, tuple] | None:
  """(the amount in first units, what kind it is), or None where a part of the unit is no measure.

  >>> measured(Fraction(2), "h") == measured(Fraction(120), "min"), measured(Fraction(1), "apple")
  (True, None)
  """
  kinds = []
  for place, part in enumerate(unit.split(" per ")):
    name, _, power = part.partition("^")
    if name not in _FACTORS or (power and not power.isdigit()):
      return None
    kind, factor = _FACTORS[name]
    value *= factor ** (int(power or 1) * (-1 if place else 1))
    kinds.append((kind, power))
  return value, tuple(kinds)
