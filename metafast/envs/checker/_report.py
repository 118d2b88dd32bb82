"""What a check found."""

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Finding", "VectorEnvError", "VectorEnvReport"]


@dataclass(frozen=True)
class Finding:
    """One fault of a vector environment.

    Attributes
    ----------
    severity : {"error", "warning"}
        ``"error"``: what the environment returns is wrong, or will mislead a training loop. ``"warning"``: it departs
        from what gymnasium's own vector environments do.
    check : str
        The name of the check, ``"group.what"``.
    expected, seen : str
        What should have been, and what was.
    """

    severity: Literal["error", "warning"]
    check: str
    expected: str
    seen: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.check}\n    expected: {self.expected}\n    seen:     {self.seen}"


@dataclass
class VectorEnvReport:
    """What `check_vector_env` found.

    Attributes
    ----------
    environment : str
        The environment, in words.
    findings : list of Finding
        In the order in which they were found.
    skipped : dict of str to str
        The checks that could not be made, each with the reason.
    passed : list of str
        The checks that found nothing.
    """

    environment: str
    findings: list[Finding] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    passed: list[str] = field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        """The findings whose severity is ``"error"``."""
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
        """The findings whose severity is ``"warning"``."""
        return [finding for finding in self.findings if finding.severity == "warning"]

    @property
    def ok(self) -> bool:
        """Whether there is no finding."""
        return not self.findings

    def __str__(self) -> str:
        lines = [
            f"{self.environment}: {len(self.errors)} errors, {len(self.warnings)} warnings, "
            f"{len(self.passed)} checks passed, {len(self.skipped)} skipped"
        ]
        lines += [str(finding) for finding in self.findings]
        lines += [f"skipped: {check}: {reason}" for check, reason in self.skipped.items()]
        return "\n".join(lines)


class VectorEnvError(AssertionError):
    """A vector environment has faults.

    Attributes
    ----------
    report : VectorEnvReport
        All that was found; the message is its text.
    """

    def __init__(self, report: VectorEnvReport) -> None:
        super().__init__(str(report))
        self.report = report

    def __reduce__(self) -> tuple[type["VectorEnvError"], tuple[VectorEnvReport]]:
        return type(self), (self.report,)
