"""From a cluster file to a checked cluster, whatever kind of file it is."""

from __future__ import annotations

from pathlib import Path

from orchestrator.cluster.files.faults import Faults
from orchestrator.cluster.files.kuberay_file import is_manifest, read_kuberay
from orchestrator.cluster.files.launcher_file import read_launcher
from orchestrator.cluster.files.local_file import THIS_MACHINE, read_local
from orchestrator.cluster.files.old_yaml import read_as_their_tools_do, refuse_ambiguous
from orchestrator.config.cluster import Cluster
from orchestrator.config.document import Document, read_text
from orchestrator.config.errors import SpecError
from orchestrator.config.prices import PriceTable, read_prices

KINDS = (
    "It takes a file for this machine (provider: {type: this-machine}), a file for Ray's cluster launcher (provider: "
    "{type: aws}, for example) or manifests with a RayCluster or RayJob; clusters/ has one of each to start from."
)


def read_cluster(path: Path, prices: PriceTable | None = None) -> Cluster:
    """Read and check a cluster file. Nothing is started, and no cloud is asked anything.

    Args:
        path: the file.
        prices: what is known of machines; None reads the usual table.

    Raises:
        SpecError: the file cannot be read or is no cluster file.
        RecipeError: it is wrong; all faults are listed with file and line.
    """
    text, file = read_text(path), path.resolve()
    documents = Document.parse_all(text, str(path))
    if not documents:
        raise SpecError(f"{path}: is empty. {KINDS}")
    if any(is_manifest(document) for document in documents):
        return read_kuberay(documents, file, _ambiguities(documents, text, str(path)))
    if len(documents) > 1:
        raise SpecError(f"{path}: holds {len(documents)} documents, and none is a Kubernetes manifest. {KINDS}")
    document = documents[0]
    provider = document.plain().get("provider")
    if not isinstance(provider, dict) or "type" not in provider:
        raise SpecError(f"{document.place(('provider',))}: provider.type: this key is required. {KINDS}")
    if provider["type"] == THIS_MACHINE:
        return read_local(document, file)
    return read_launcher(document, file, prices or read_prices(), _ambiguities(documents, text, str(path))[0])


def _ambiguities(documents: list[Document], text: str, origin: str) -> list[Faults]:
    faults = [Faults(document) for document in documents]
    for document, theirs, noted in zip(documents, read_as_their_tools_do(text, origin), faults, strict=True):
        refuse_ambiguous(document.plain(), theirs, noted)
    return faults
