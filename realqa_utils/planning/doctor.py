"""`realqa doctor [--profile P]`: is this machine ready for a profile, and if not, what to do.

Nothing is downloaded, written or asked over the network.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from realqa_utils.profiles import PROFILES, Profile, get_profile
from realqa_utils.records import provenance

OK, WARNING, PROBLEM = "ok", "warning", "problem"
PYTHON = (3, 11)


class Line(NamedTuple):
    """What was looked at, how it is, and what to do about it."""

    state: str  # ok | warning | problem
    what: str
    found: str
    advice: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for everything that was looked at. 1: there is a problem.

    Raises ValueError for an unknown profile.
    """
    parser = argparse.ArgumentParser("realqa doctor", description="Is this machine ready?")
    parser.add_argument(
        "--profile", default="mini", metavar="P", help=f"{', '.join(PROFILES)} (default: mini)"
    )
    profile = get_profile(parser.parse_args(arguments).profile)
    lines = list(examine(profile))
    print("\n".join(map(said, lines)))
    problems, warnings = (sum(x.state == s for x in lines) for s in (PROBLEM, WARNING))
    ready = "not ready" if problems else "ready"
    print(f"{ready} for profile {profile.name}: {problems} problems, {warnings} warnings")
    return int(problems > 0)


def said(line: Line) -> str:
    """A line of the report, with what to do below it."""
    advice = f"\n{'':<21}-> {line.advice}" if line.advice else ""
    return f"{line.state:<8} {line.what:<11} {line.found}{advice}"


def examine(profile: Profile) -> Iterator[Line]:
    """Everything that decides whether a profile can run here; the rest only where the software
    is whole."""
    software = [python(), *packages(provenance.home())]
    yield from software
    if any(line.state == PROBLEM for line in software):
        return
    from realqa_utils.planning import machine  # needs the packages that have just been looked for

    yield from machine.examine(profile)


def python() -> Line:
    """The interpreter."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] >= PYTHON:
        return Line(OK, "Python", version)
    return Line(PROBLEM, "Python", version, "needs 3.11 or newer: make setup PYTHON=python3.11")


def packages(home: Path) -> Iterator[Line]:
    """Installed versions against the pins of environment.yml."""
    source = home / "environment.yml"
    if not source.is_file():
        yield Line(WARNING, "packages", f"no {source.name} in {home}: versions are not compared",
                   "run this in a checkout of the kit")  # fmt: skip
        return
    pinned = pins(source.read_text("utf-8"))
    tested = for_tests(home / "pyproject.toml")
    odd = {name: installed(name) for name in pinned}
    odd = {name: version for name, version in odd.items() if version != pinned[name]}
    yield Line(OK, "packages", f"{len(pinned) - len(odd)} of {len(pinned)} as pinned")
    for name, version in odd.items():
        needed = version is None and name not in tested
        found = f"{name} {version or 'is missing'}, pinned is {pinned[name]}"
        advice = f'pip install "{name}=={pinned[name]}"'
        yield Line(PROBLEM if needed else WARNING, "packages", found, advice)


def pins(text: str) -> dict[str, str]:
    """Versions by package, in the pip section of an environment.yml.

    >>> pins("  - pip:\\n      - torch==2.13.0 # training\\n")
    {'torch': '2.13.0'}
    """
    return dict(re.findall(r"^\s+- ([\w.-]+)==([\w.]+)", text, re.MULTILINE))


def for_tests(pyproject: Path) -> list[str]:
    """Packages that only tests and lint need: the extra `dev` of a pyproject.toml."""
    if not pyproject.is_file():
        return []
    return tomllib.loads(pyproject.read_text("utf-8"))["project"]["optional-dependencies"]["dev"]


def installed(name: str) -> str | None:
    """The installed version of a package, without a build's name; None where there is none."""
    try:
        return metadata.version(name).split("+")[0]  # 2.13.0+cpu is a build of 2.13.0
    except metadata.PackageNotFoundError:
        return None
