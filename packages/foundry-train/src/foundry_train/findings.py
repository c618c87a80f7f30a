"""What a verification says: findings, each an error or a note, and the report that gathers them."""

from typing import NamedTuple


class Finding(NamedTuple):
    """One thing that was noticed."""

    is_error: bool
    where: str
    message: str
    of_comparison: bool = False
    """Says how another run differs, not that something is wrong with this one."""

    def __str__(self) -> str:
        return f"{'error' if self.is_error else 'note'}: {self.where}: {self.message}"


class VerifyReport(NamedTuple):
    """What a verification did and found."""

    checkpoints: int
    files: int
    bytes: int
    replayed: tuple[int, int] | None
    """From and to which step training was repeated."""
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not any(finding.is_error for finding in self.findings)
