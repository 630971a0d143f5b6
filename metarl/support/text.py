"""Words in messages."""

from collections.abc import Mapping


def counted(number: int, noun: str) -> str:
    """The number and its noun: `1 task`, `2 tasks`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def described_units(units: Mapping[str, str]) -> str:
    """Names and their units: `velocity in m/s, mass in kg`."""
    return ", ".join(f"{name} in {unit}" for name, unit in units.items())
