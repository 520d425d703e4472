"""What the page says about environments of training backends."""

from __future__ import annotations

from tmde_core.backends.progress import Installation
from tmde_core.backends.service import BackendDetails, BackendEnvironment, InstallPlan
from tmde_core.sdk.environments import Lack, ProbeReport
from tmde_ui.kit.times import format_milliseconds
from tmde_ui.kit.words import count, format_bytes, plain

STATES = {
    "built-in": ("comes with TMDE", ""),
    "absent": ("not installed", ""),
    "incomplete": ("not complete", "major"),
    "installed": ("installed", "good"),
    "foreign": ("your own interpreter", "accent"),
}
"""State of an environment → word and kind of chip."""

OUTDATED = "another version of the plugin"
"""Is in the reason of an environment whose packages are not those of the lock file."""


def describe_state(backend: BackendEnvironment) -> tuple[str, str]:
    """Return the word for the state of an environment, and the kind of its chip."""
    installation = backend.installation
    if installation is not None and installation.state == "installing":
        # An environment that is complete is only examined: its stamp is removed before anything is installed.
        return "examining" if backend.state == "installed" else "installing", "accent"
    if backend.state in ("installed", "foreign") and backend.report is not None and not backend.availability.ok:
        return "does not work", "critical"
    if backend.state == "built-in" and not backend.availability.ok:
        return "not available", "major"
    return STATES[backend.state]


def describe_hindrance(backend: BackendEnvironment) -> str:
    """Return why a backend cannot train, unless its report says so, or that its packages are outdated.

    Empty if it can train, or is being installed.
    """
    if backend.state == "installed" and backend.availability.ok and OUTDATED in backend.availability.reason:
        return "Its packages are those of another version of the plugin. Install again replaces them."
    if backend.availability.ok or (backend.installation is not None and backend.installation.state == "installing"):
        return ""
    if backend.state == "absent":
        return "Its packages are not installed."
    if backend.state == "incomplete":
        if describe_end(backend)[0]:
            return ""
        return "Its installation stopped before the end. Continue installs the rest."
    if backend.report is not None:
        return ""
    if backend.state in ("installed", "foreign") and "not examined" in backend.availability.reason:
        return "Its environment was not examined yet."
    return plain(backend.availability.reason)


def list_facts(backend: BackendEnvironment) -> list[tuple[str, str]]:
    """Return what is known about an environment: names and values."""
    found = [("Packages", backend.build)]
    if backend.report is not None:
        found += _list_findings(backend.report)
    if backend.state in ("installed", "foreign"):
        found.append(("Interpreter", backend.interpreter))
    return found


def _list_findings(report: ProbeReport) -> list[tuple[str, str]]:
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    device = report.device_name or {"cpu": "the processor", "cuda": "the graphics card"}.get(
        report.device, report.device
    )
    return [
        ("Python", report.python),
        ("Versions", versions),
        ("Computes on", ", ".join(filter(None, (device, format_bytes(report.memory_bytes))))),
        ("Compute capability", report.compute_capability),
        ("4 bits", ("yes" if report.four_bit else "no") if report.device else ""),
    ]


def describe_lack(lack: Lack) -> str:
    """Return what is missing, and what to do about it."""
    return plain(f"{lack.what} {lack.remedy}".strip())


def describe_progress(installation: Installation) -> str:
    """Return `Packages · 34 of 77 · numpy, 17 MB · 1 min 10 s`."""
    parts = (
        installation.step,
        f"{installation.done} of {installation.total}" if installation.total else "",
        installation.detail,
        format_milliseconds(1000 * installation.seconds),
    )
    return " · ".join(filter(None, parts))


def describe_end(backend: BackendEnvironment) -> tuple[str, str]:
    """Return how the last installation ended and the kind of notice; empty if there is nothing to say."""
    installation = backend.installation
    if installation is None:
        return "", ""
    if installation.state == "failed":
        return plain(installation.error), "bad"
    if installation.state == "cancelled" and backend.state != "installed":
        kept = "Continue installs the rest." if backend.state == "incomplete" else "What was fetched is kept."
        return f"The installation was cancelled. {kept}", ""
    return "", ""


def list_plan(details: BackendDetails, plan: InstallPlan) -> list[tuple[str, str]]:
    """Return what an installation would do: names and values."""
    before = details.backend.build
    replaced = f", in place of {before}" if before and before != plan.build else ""
    return [
        ("Packages", f"{count(plan.packages, 'package')}: {plan.build}{replaced}"),
        ("Why these", plain(plan.why)),
        ("Python", plan.python),
        ("Download", f"about {format_bytes(plan.download_bytes)}"),
        ("Needs on the disk", f"about {format_bytes(plan.disk_bytes)}"),
        ("Free on the disk", format_bytes(plan.free_bytes)),
        ("Directory", plan.directory),
    ]
