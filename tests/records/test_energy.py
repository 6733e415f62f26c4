"""Energy counters, as files of a kernel that has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from realqa_utils.records import energy, provenance

FULL = 262_143_328_850


def zone(folder: Path, number: str, name: str, used: int, watts: int = 28) -> None:
    place = folder / f"intel-rapl:{number}"
    place.mkdir(exist_ok=True)
    for file, value in {
        "name": name,
        "energy_uj": used,
        "max_energy_range_uj": FULL,
        "constraint_0_power_limit_uw": watts * 10**6,
    }.items():
        (place / file).write_text(f"{value}\n")


@pytest.fixture
def powercap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    return tmp_path


def test_packages_are_added_and_their_parts_are_not(powercap):
    zone(powercap, "0", "package-0", 1_000_000)
    zone(powercap, "1", "package-1", FULL - 1_000_000)
    zone(powercap, "0:0", "core", 5)
    zone(powercap, "2", "psys", 5)
    before = energy.counters()
    assert list(before.values()) == [1_000_000, FULL - 1_000_000]
    zone(powercap, "0", "package-0", 4_000_000)
    zone(powercap, "1", "package-1", 500_000)  # ran over once
    assert energy.joules(before, seconds=60) == pytest.approx(3 + 1.5)


def test_what_may_have_run_over_twice_is_not_told(powercap):
    zone(powercap, "0", "package-0", 0, watts=100)
    before = energy.counters()
    assert energy.joules(before, FULL / 200e6 - 1) == 0
    assert energy.joules(before, FULL / 200e6 + 1) is None


def test_a_machine_without_counters_or_without_leave_tells_nothing(powercap):
    assert energy.counters() == {} and energy.joules({}, 1) is None
    assert provenance.Stopwatch().joules is None
    zone(powercap, "0", "package-0", 7)
    before = energy.counters()
    (powercap / "intel-rapl:0" / "energy_uj").unlink()
    assert energy.counters() == {} and energy.joules(before, 1) is None


def test_a_stopwatch_counts_from_where_it_was_made(powercap):
    zone(powercap, "0", "package-0", 0)
    watch = provenance.Stopwatch()
    zone(powercap, "0", "package-0", 2_500_000)
    assert watch.joules == 2.5
    assert provenance.Stopwatch(watch.started, {}).joules is None  # a bare stamp knows of none
