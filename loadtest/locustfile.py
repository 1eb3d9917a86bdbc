"""Open-loop load on a SuperServe server, run by Locust: ``locust -f loadtest/locustfile.py``.

Every query leaves at its time, whatever became of the others. See ``docs/experiments.md``.
"""

from locust import events

from loadtest.locusts.open_loop import OpenLoop, OpenLoopUser, prepare
from loadtest.locusts.options import add_options

__all__ = ["OpenLoop", "OpenLoopUser"]  # Locust finds its classes among these names

events.init_command_line_parser.add_listener(add_options)
events.init.add_listener(prepare)
