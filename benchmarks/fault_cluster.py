"""A Ray cluster of two nodes on this machine, one of which a fault campaign kills. Needs the extra `scale`."""

from __future__ import annotations

import os
from typing import Any

NODE = {"num_cpus": 1, "object_store_memory": 100 << 20}
HEAD = {**NODE, "include_dashboard": False}


class TwoNodes:
    """Two nodes of one core each while it is entered."""

    def __enter__(self) -> TwoNodes:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when Ray is imported
        from ray.cluster_utils import Cluster  # Ray is an extra

        self._cluster = Cluster(initialize_head=True, head_node_args=HEAD)
        self._second = self._add()
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.shutdown()

    @property
    def address(self) -> str:
        """Of the cluster, for --address."""
        return self._cluster.address

    def kill_second(self) -> None:
        """SIGKILL of the second node, with all that runs on it."""
        self._cluster.remove_node(self._second, allow_graceful=False)

    def replace_second(self) -> None:
        """A new node in the place of the killed one."""
        self._second = self._add()

    def _add(self) -> Any:
        return self._cluster.add_node(**NODE)
