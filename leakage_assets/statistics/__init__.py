"""Statistics over the true unit: every ``Estimate`` knows its n, unit and method."""
