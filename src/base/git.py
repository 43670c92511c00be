"""What git says of the project's checkout; nothing where there is no git or no checkout."""

import subprocess
from pathlib import Path

from src.base.workspace import PROJECT_DIR


def commit() -> str:
    """Return the short commit of the code, with a + where the code differs from it; "" outside a repository."""
    try:
        if Path(_git("rev-parse", "--show-toplevel")).resolve() != PROJECT_DIR:
            return ""  # a copy that lies inside another repository
        changes = _git("status", "--porcelain", "src", "requirements.txt")
        return _git("rev-parse", "--short=8", "HEAD") + ("+" if changes else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def is_tracked(path: Path) -> bool:
    """Return whether a file of the checkout is tracked."""
    try:
        return bool(_git("ls-files", "--", str(path)))
    except (OSError, subprocess.SubprocessError):
        return False


def _git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", str(PROJECT_DIR), *arguments], capture_output=True, text=True, check=True,
                          timeout=30).stdout.strip()
