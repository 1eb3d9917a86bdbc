"""Open-loop load through Locust: its command line, web UI and distribution, with honest clocks.

`loadtest/locustfile.py` is what Locust runs. `options` is what a run can be told, `plan` what it
sends, `coordinator` what the master knows of its workers, `sender` how one worker keeps the times,
`outcome` whether the run counts. `run` starts all of it as a child process. Importing Locust
patches the standard library: `node`, `conductor`, `open_loop`, `web`, `shape` and `closed_loop` do.
"""
