"""A Ray cluster of two nodes with a processor each, on this machine; ``python -m tests.support.cluster`` is one.

It prints its address, and obeys the lines that it reads: ``kill`` takes the second node away, ``add`` adds one, any
other ends it all.
"""

from __future__ import annotations

import sys
from typing import Any

from kvbench.harness.engine import LOCAL

HERE = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 80 * 2**20}


def main() -> None:
    import os

    os.environ.update(LOCAL)
    from ray.cluster_utils import Cluster

    cluster: Any = Cluster(initialize_head=True, head_node_args={**HERE, "include_dashboard": False})
    node = cluster.add_node(**HERE)
    print(cluster.address, flush=True)
    for line in sys.stdin:
        if line == "kill\n":
            cluster.remove_node(node, allow_graceful=False)
        elif line == "add\n":
            node = cluster.add_node(**HERE)
        else:
            break
        print("done", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
