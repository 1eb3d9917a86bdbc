"""The demonstration: calm, burst, calm on a live server, under its policy and a fixed subnet."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote

import httpx
import orjson
from rich.console import Console
from rich.live import Live

from loadtest.arrivals import Times, poisson
from loadtest.background import send_in_background
from loadtest.client import Load, LoadGenerator, Payload
from loadtest.connections import Target
from loadtest.demo_plan import make_plan
from loadtest.demo_result import RunResult, Served, complaints, document, draw, result_table
from loadtest.demo_view import LiveView
from loadtest.records import Header, Record
from loadtest.server_process import running_server
from policies import POLICIES, Profile
from policies.slackfit import SlackFit
from superserve.api import ModelDescription, PolicyDescription
from superserve.client import Client
from superserve.errors import ConfigError, NotReady, SuperServeError, Unreachable

FRAME = 0.25  # seconds between two pictures in the terminal
LINE = 1.0  # seconds between two lines where there is no terminal
START = 300.0  # seconds for a server to be ready: it may have to measure its profile first
TIMEOUT_SLOS = 5  # without an answer after so many SLOs a query is given up
WARM_UP = 1.0  # seconds of calm, at most, that do not count: the first answers pay for start-up
INTERRUPTED = 130  # exit status, as shells have it


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What people can choose. Milliseconds, since they type them."""

    supernet: str = "digits"
    url: str = ""  # of a running server; empty = start one and stop it at the end
    policy: str = ""  # empty = the server's
    compare: bool = True  # run once more, with the largest subnet fixed
    seconds: float = 30.0  # of one run
    slo_ms: float | None = None  # None = what the largest subnet needs
    burst_factor: float = 2.0  # times what the largest subnet can serve
    seed: int = 0
    output: str = "superserve-demo.png"
    json: str = ""  # a file for the numbers; empty = none
    serve_arguments: tuple[str, ...] = ()  # more of them for the server that is started


def run_demo(
    options: DemoOptions, payloads: Sequence[tuple[bytes, int]], console: Console | None = None
) -> int:
    """Run it and show it; gives the exit status: 0, 1 for an invalid run, 130 if interrupted.

    ``payloads`` are image files with the index of their label. Raises `SuperServeError` if there
    is no server to load, `ConfigError` for options that cannot be met.
    """
    console = console or Console(highlight=False)
    for file in filter(None, (options.output, options.json)):
        if not Path(file).absolute().parent.is_dir():
            raise ConfigError(f"there is no folder for {file}")
    with _server(options, console) as url, Client(url) as client:
        return _Demo(options, payloads, console, url, client).run()


@contextmanager
def _server(options: DemoOptions, console: Console) -> Iterator[str]:
    """The URL of the server to load: somebody's, or our own for the time being."""
    if options.url:
        yield options.url.rstrip("/")
        return
    arguments = ["--supernet", options.supernet, *options.serve_arguments]
    if options.policy:
        arguments += ["--policy", options.policy]
    with ExitStack() as stack:
        console.print("Starting a server; on a new device it first measures its latencies.")
        with console.status("Starting") as status:
            url = stack.enter_context(
                running_server(
                    arguments,
                    patience=START,
                    on_output=lambda line: status.update(f"Starting: {line}"),
                )
            )
        yield url


class _Demo:
    """One demonstration against one ready server."""

    def __init__(
        self,
        options: DemoOptions,
        payloads: Sequence[tuple[bytes, int]],
        console: Console,
        url: str,
        client: Client,
    ) -> None:
        self._options = options
        self._console = console
        self._client = client
        model = client.models()[0]
        self._served = _served(model, url)
        try:
            self._plan = make_plan(
                self._served.profile,
                workers=self._served.workers,
                seconds=options.seconds,
                slo=None if options.slo_ms is None else options.slo_ms / 1000,
                burst_factor=options.burst_factor,
            )
            self._target = Target.at(
                url,
                f"/v1/classify?slo_ms={self._plan.slo * 1000:g}&top_k=1&model={quote(model.name)}",
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error
        # The labels mean something only to the supernet that the images were made for.
        labelled = model.name == options.supernet
        self._payloads = [Payload(body, label if labelled else None) for body, label in payloads]

    def run(self) -> int:
        self._introduce()
        results: list[RunResult] = []
        before = self._client.policy()
        try:
            interrupted = self._measure_policies(results)
        finally:  # also where the server failed in the second run: the first one still counts
            if self._options.url:
                self._restore(before)
            if results:
                self._conclude(results)
        if interrupted:
            return INTERRUPTED
        return 0 if all(result.valid for result in results) else 1

    def _measure_policies(self, results: list[RunResult]) -> bool:
        """Add the result of each run; gives whether Ctrl-C ended it all."""
        plan, options = self._plan, self._options
        calm = poisson(plan.phases[0].rate, min(WARM_UP, plan.seconds / 30), options.seed)
        _, interrupted = self._send(calm, lambda _: None)
        if interrupted:
            return True
        if options.url and options.policy:
            self._client.set_policy(options.policy)
        name = self._client.policy().policy
        if self._measure(_title(name), name, results):
            return True
        if not options.compare:
            return False
        if POLICIES.get(name) is not SlackFit:  # the paper's own
            self._client.set_policy("slackfit")
            if self._measure(_title("slackfit"), "slackfit", results):
                return True
        self._client.set_policy("fixed", subnet="largest")
        return self._measure("fixed largest subnet", "fixed", results)

    def _introduce(self) -> None:
        plan, served, say = self._plan, self._served, self._console.print
        profile = served.profile
        slowest = profile.latency(profile.largest, profile.max_batch)
        say(
            f"[bold]{served.model}[/]: {len(profile.subnets)} subnets, "
            f"{profile.accuracies[0]:.2f} to {profile.accuracies[-1]:.2f} %, on {served.workers} "
            f"worker(s) ({served.device_type}); in batches of {profile.max_batch} the "
            f"largest can serve {plan.largest_capacity:.0f}/s, the smallest "
            f"{plan.smallest_capacity:.0f}/s."
        )
        say(
            "Load: "
            + ", ".join(f"{p.name} {p.rate:.0f}/s for {p.seconds:.0f} s" for p in plan.phases)
            + f"; Poisson, open loop, seed {self._options.seed}. "
            f"SLO {plan.slo * 1000:.0f} ms (the largest subnet needs {slowest * 1000:.1f} ms)."
        )
        if not plan.overloads:
            say(
                "[yellow]The burst is less than the largest subnet can serve, so no accuracy need "
                "be given up. Raise --burst-factor, if the smallest subnet is that much faster.[/]"
            )

    def _measure(self, name: str, policy: str, results: list[RunResult]) -> bool:
        """Run once and add the result; gives whether it was interrupted."""
        arrivals = self._plan.arrivals(self._options.seed)
        view = LiveView(name, self._plan, self._served.profile, arrivals)
        with _Screen(self._console, view) as screen:
            load, interrupted = self._send(arrivals, screen.show, view.add)
        result = RunResult.of(name, policy, load, self._plan, interrupted=interrupted)
        if result is not None:
            results.append(result)
        return interrupted

    def _send(
        self,
        arrivals: Times,
        show: Callable[[LoadGenerator], None],
        on_record: Callable[[Record], None] = lambda _: None,
    ) -> tuple[Load, bool]:
        generator = LoadGenerator(
            self._target,
            arrivals.tolist(),
            self._payloads,
            slo=self._plan.slo,
            timeout=max(TIMEOUT_SLOS * self._plan.slo, 1.0),
            on_record=on_record,
        )
        return send_in_background(generator, show, every=FRAME)

    def _restore(self, before: PolicyDescription) -> None:
        try:
            self._client.set_policy(before.policy)
        except SuperServeError as error:
            self._console.print(
                f"[yellow]The policy {before.policy} could not be restored: {error}[/]"
            )

    def _conclude(self, results: list[RunResult]) -> None:
        options, say = self._options, self._console.print
        say(result_table(results, self._plan))
        for complaint in complaints(results, self._plan):
            say(f"[bold red]{complaint}[/]")
        draw(Path(options.output), results, self._plan, self._served)
        say(f"Picture: {options.output}")
        if options.json:
            # Where the files went says nothing about the run.
            files = {"output": Path(options.output).name, "json": Path(options.json).name}
            header = Header.of(options.seed, asdict(options) | files)
            found = document(results, self._plan, self._served, header)
            Path(options.json).write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
            say(f"Numbers: {options.json}")


class _Screen:
    """Shows a view: live in a terminal, else as a line now and then."""

    def __init__(self, console: Console, view: LiveView) -> None:
        self._console = console
        self._view = view
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._next_line = LINE

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, generator: LoadGenerator) -> None:
        self._view.update()
        now = generator.elapsed
        if self._live is not None:
            self._live.update(self._view.render(now, generator.under_way), refresh=True)
        elif now >= self._next_line:
            self._next_line = now - now % LINE + LINE
            self._console.print(self._view.line(now, generator.under_way))


def _served(model: ModelDescription, url: str) -> Served:
    """The profile that the server plans with, and its workers."""
    profile = Profile.from_table(
        (subnet.id, subnet.accuracy, {b: ms / 1000 for b, ms in subnet.latency_ms.items()})
        for subnet in model.subnets
    )
    try:
        workers = httpx.get(f"{url}/v1/stats").raise_for_status().json()["workers"]
    except httpx.HTTPError as error:
        raise Unreachable(f"{url} does not tell about its workers: {error}") from error
    connected = [worker["info"]["device_type"] for worker in workers if worker["connected"]]
    if not connected:
        raise NotReady(f"no worker is connected to {url}")
    return Served(model.name, len(connected), ", ".join(sorted(set(connected))), profile)


def _title(policy: str) -> str:
    """The policy's name, with what is behind "default"."""
    found = POLICIES.get(policy)
    return f"{policy} ({found.__name__})" if found is not None else policy
