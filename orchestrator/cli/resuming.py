"""Naming the run to continue."""

from __future__ import annotations


def resume_overrides(resume: str | None) -> list[str]:
    """Return what names the run to resume: by name, or by the path or URI of its folder."""
    if resume is None or resume == "auto":
        return []
    storage, slash, name = resume.rstrip("/").rpartition("/")
    return [f"name={name}", *([f"storage.uri={storage or '/'}"] if slash else [])]
