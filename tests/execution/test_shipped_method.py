"""A user's module reaches the nodes of a cluster that was started without it."""

import json
import os
import subprocess
import sys

import pytest
from tiny import REPOSITORY

# A cluster without the module in its path or environment; then a driver that has it. Ray gives
# workers the driver's path too, so the module's folder is taken off it before Ray is told.
SCRIPT = """
import json, os, sys
import ray_unlearn.execution
import ray
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
examples = sys.argv[1]
os.environ["RAY_UNLEARN_METHODS"] = "my_methods"
sys.path.insert(0, examples)
from ray_unlearn.spec.method_registry import method_named
method_named("bounded_ascent")
sys.path.remove(examples)
from ray_unlearn.execution.ray_runtime import connected
from ray_unlearn.spec.operations import Operations

with connected(cluster.address, Operations(), ["bounded_ascent"]):
    @ray.remote(num_cpus=0)
    def on_a_node():
        from ray_unlearn.spec.method_registry import method_named
        own = [one.name for one in method_named("bounded_ascent").own]
        import my_methods
        return own, my_methods.__file__, os.environ["RAY_UNLEARN_METHODS"]

    print(json.dumps(ray.get(on_a_node.remote())))
cluster.shutdown()
"""


@pytest.mark.slow
def test_a_module_is_shipped_to_nodes_that_do_not_have_it() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "RAY_UNLEARN_METHODS"}
    examples = REPOSITORY / "examples"
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(examples)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert ran.returncode == 0, ran.stderr
    own, path, named = json.loads(ran.stdout.splitlines()[-1])
    assert (own, named) == (["sharpness"], "my_methods")
    assert not path.startswith(str(examples)), "Ray's copy, not the file here"
