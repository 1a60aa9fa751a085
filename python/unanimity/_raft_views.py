"""A cluster's status to look at. Not the asking: that is the node's, or a client's."""

from __future__ import annotations

from typing import Any

from ._views.model import View
from ._views.operations import cluster_view
from ._views.viewed import Viewed


class ClusterStatus(dict[str, Any], Viewed):
    """How a node sees its cluster: a dict, which shows itself as a card with its members."""

    @property
    def is_well(self) -> bool:
        """Whether it has a leader, and nothing troubles the node that was asked."""
        return self.get("trouble") is None and self.get("leader_id") is not None

    def _view(self) -> View:
        return cluster_view(self)

    def to_dict(self) -> Any:
        """Give it as a plain dict."""
        return super().to_dict()

    def __str__(self) -> str:
        return self.to_text()
