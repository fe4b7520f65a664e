from __future__ import annotations

from orchestrator.cluster.doctor.python_env import check_plugins
from orchestrator.cluster.findings import passed
from orchestrator.config.loading import find_corpus, find_workload


def test_registered_ones_really_load() -> None:
    assert check_plugins("workloads", ["albef"], find_workload) == [passed("workloads", "albef")]
    assert check_plugins("corpora", ["emoji"], find_corpus) == [passed("corpora", "emoji")]


def test_each_that_fails_is_named() -> None:
    def find(name: str) -> object:
        if name == "good":
            return name
        raise ModuleNotFoundError(f"No module named '{name}_parts'")

    first, second = check_plugins("workloads", ["bad", "good", "worse"], find)
    assert (first.level, second.level) == ("error", "error")
    assert "bad cannot be loaded: ModuleNotFoundError: No module named 'bad_parts'" in first.found
    assert "worse" in second.found


def test_none_is_a_warning() -> None:
    (finding,) = check_plugins("corpora", [], find_corpus)
    assert finding.level == "warning"
