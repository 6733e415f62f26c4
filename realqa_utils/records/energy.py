"""Energy of the processors, from the counters that Linux shows (RAPL) where it lets one read them.

They count the whole machine, not one process. Most kernels let only root read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


def counters() -> dict[Path, int]:
    """Microjoules so far of every processor package; empty where one cannot be read."""
    zones = [zone for zone in POWERCAP.glob("intel-rapl:*") if _is_package(zone)]  # AMD's too
    found = {zone: _number(zone / "energy_uj") for zone in sorted(zones)}
    return {} if None in found.values() else found


def joules(before: Mapping[Path, int], seconds: float) -> float | None:
    """Used since `counters` gave `before`, `seconds` ago.

    None where they cannot be read, and where a counter, which starts again from zero when it is
    full, may have done so more than once at twice the power that the package may draw.
    """
    now, total = counters(), 0
    if not before or set(now) != set(before):
        return None
    for zone, then in before.items():
        full = _number(zone / "max_energy_range_uj")
        watts = _number(zone / "constraint_0_power_limit_uw")  # in microwatts
        if not full or not watts or 2 * watts * seconds > full:
            return None
        total += (now[zone] - then) % full
    return total / 1e6


def _is_package(zone: Path) -> bool:
    try:
        return (zone / "name").read_text().startswith("package")  # not dram, core, psys
    except OSError:
        return False


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
