"""Ray Serve with one subnet: ``python -m loadtest.peers.ray_server --port N``.

A Ray instance of its own, on the loopback address, that ends with this process. The ordinary way:
an HTTP proxy process, which passes requests to replicas with ``serve.batch``. Ray's HAProxy mode is
left out, because it listens on all interfaces.
"""

import os
import secrets
import signal
import sys
import tempfile

from loadtest.peers import version
from loadtest.peers.front import Front
from loadtest.peers.model import describe
from loadtest.peers.settings import PeerSettings
from loadtest.peers.stopping import (
    descendants,
    hear_sigterm,
    hear_sigterm_no_more,
    kill,
    stopping_in_order,
)

# Read when Ray is imported, by all its processes.
ENVIRONMENT = {
    # Not a cluster: all listens on the loopback address. But for a port of each replica, and that
    # one lets in who knows the token.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # replicas see the GPUs that this process sees
}
OBJECT_STORE = 80 * 2**20  # bytes; nearly the least that Ray accepts, and requests do not use it
# A replica runs a batch and collects the next. What waits beyond is refused with 503 from so many
# batches for each replica on: Ray's default, no limit, makes all late where some must be.
ONGOING_BATCHES = 2
QUEUED_BATCHES = 8


def main() -> None:
    # A short name: sockets lie in there, whose paths may have no more than 107 characters.
    with stopping_in_order(), tempfile.TemporaryDirectory(prefix="ssray") as folder:
        settings, host, port = PeerSettings.from_arguments(sys.argv[1:])
        front = Front(describe(settings, folder), f"{version('ray')}, fixed")
        os.environ.update(ENVIRONMENT, RAY_AUTH_TOKEN=secrets.token_hex(32))
        import ray

        try:
            _start(settings, host, port, folder, front)
            while True:
                signal.pause()
        finally:
            hear_sigterm_no_more()
            started = descendants(os.getpid())
            ray.shutdown()
            kill(started)  # what Ray leaves behind where it is stopped while it starts


def _start(settings: PeerSettings, host: str, port: int, folder: str, front: Front) -> None:
    import ray
    from ray import serve

    from loadtest.peers.ray_replica import Replica

    ray.init(
        address="local",
        num_cpus=settings.workers * settings.threads + 1,
        num_gpus=0,
        include_dashboard=False,
        logging_level="error",
        log_to_driver=False,
        object_store_memory=OBJECT_STORE,
        _temp_dir=folder,
    )
    hear_sigterm()  # Ray has taken it
    quiet = {"log_level": "ERROR", "enable_access_log": False}
    serve.start(
        proxy_location="HeadOnly",
        http_options={
            "host": host,
            "port": port,
            "request_timeout_s": settings.timeout_s,
            "keep_alive_timeout_s": 65,
        },
        logging_config=quiet,
    )
    deployment = serve.deployment(
        Replica,
        num_replicas=settings.workers,
        ray_actor_options={"num_cpus": settings.threads},
        max_ongoing_requests=ONGOING_BATCHES * settings.max_batch,
        max_queued_requests=QUEUED_BATCHES * settings.max_batch * settings.workers,
        logging_config=quiet,
    )
    serve.run(deployment.bind(settings, folder, front))


if __name__ == "__main__":
    main()
