"""The Markov decision process of RAMSIS for one worker, and its solution by value iteration."""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from math import inf

import numpy as np
import numpy.typing as npt

from policies.types import Profile

Floats = npt.NDArray[np.float64]

QUEUE_LEVELS = 32  # as many as in their code
SLACK_STEPS = 16  # besides the latencies
MOST_SWEEPS = 1000  # some hundred are enough for any profile that was tried


@dataclass(frozen=True, slots=True)
class Table:
    """What a worker does that becomes free when ``n`` queries wait for it, the earliest of which is
    due in ``slack`` seconds.

    ``levels`` [J] are the queue lengths told apart: n counts as the next level up, and as the last
    one beyond it. ``edges`` [M] are slacks from 0 to the SLO: a slack counts as the next edge down.
    ``actions`` [J][M] are (subnet, batch size). ``gain`` is the reward per second in the long run,
    ``values`` [J][M] how much more reward a start in this state brings than one in the last.
    """

    levels: tuple[int, ...]
    edges: tuple[float, ...]
    actions: tuple[tuple[tuple[str, int], ...], ...]
    values: tuple[tuple[float, ...], ...]
    gain: float

    def at(self, n: int, slack: float) -> tuple[str, int]:
        """(subnet, batch size up to n) for n >= 1. O(log levels + log edges)."""
        row = min(bisect_left(self.levels, n), len(self.levels) - 1)
        subnet, batch = self.actions[row][max(bisect_right(self.edges, slack) - 1, 0)]
        return subnet, min(batch, n)


def solve(
    profile: Profile,
    slo: float,
    rate: float,
    *,
    tolerance: float = 5e-4,
    slack_steps: int = SLACK_STEPS,
) -> Table:
    """The policy with the most reward per second for queries that come to one worker as a Poisson
    stream of ``rate`` per second, each due ``slo`` seconds after it came.

    State: n queries wait, the earliest is due in m seconds, and the worker is free. Action: a
    subnet, and as many queries as a profiled size holds, or all if there are no more. Those for
    which it would be too late are given up beforehand; it is taken that the queries came evenly
    since the earliest one, so that the i-th (from 0) is due in m + (slo - m) · i / n. Reward: the
    accuracy, for each query served. The next state is that at the end of the batch or, if nobody
    waits then, at the next arrival:

    - none left: how many came meanwhile, and what slack the first of them has, is exact;
    - some left: those that came are added, up to the last level, beyond which they are lost.

    Slacks are told apart at each latency below the SLO, where what can be done in time changes, and
    at ``slack_steps`` even ones. Of equal actions the less accurate subnet is taken, then the
    smaller batch. The gain is found by value iteration with a price on time, which is moved by
    false position until a decision is worth nothing but its time, within ``tolerance`` of an
    accuracy. Time per sweep: actions · J · (J + M).
    """
    process = _Process(profile, slo, rate, slack_steps)
    enough = tolerance * max(map(abs, profile.accuracies))
    values = np.zeros((len(process.levels), len(process.edges)))
    price = _Price(rate * profile.accuracies[-1], rate)
    for _ in range(MOST_SWEEPS):
        worth = process.worth(values, price.now)
        following = worth.max(axis=0)
        change = following - values
        low, high = float(change.min()), float(change.max())
        if max(-low, high) <= enough:
            break
        values = following - following[-1, -1]
        surplus = (low + high) / 2
        if high - low <= 0.8 * abs(surplus):
            price.move(surplus)
    return Table(
        process.levels,
        tuple(process.edges.tolist()),
        tuple(
            tuple((process.subnets[a], min(process.sizes[a], n)) for a in row)
            for n, row in zip(process.levels, worth.argmax(axis=0).tolist(), strict=True)
        ),
        tuple(map(tuple, values.tolist())),
        price.now,
    )


def queue_levels(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Each length up to twice the largest batch, if those are at most `QUEUE_LEVELS`; otherwise up
    to that number or the largest batch, by about equal ratios, with the batch sizes among them.
    """
    last = max(sizes[-1], min(2 * sizes[-1], QUEUE_LEVELS))
    if last <= QUEUE_LEVELS:
        return tuple(range(1, last + 1))
    spaced = np.geomspace(1, last, QUEUE_LEVELS).round().astype(int).tolist()
    return tuple(sorted({*spaced, *sizes}))


class _Price:
    """The price of a second at which the surplus of a mean decision, which falls with the price, is
    zero: the Illinois form of false position.
    """

    def __init__(self, now: float, rate: float) -> None:
        self.now = now
        self._rate = rate  # a decision takes about 1 / rate or longer, so a first step goes past
        self._tried: dict[bool, tuple[float, float]] = {}  # the last price on either side
        self._side: bool | None = None

    def move(self, surplus: float) -> None:
        """``surplus`` is that at the price of now."""
        side = surplus > 0
        other = self._tried.get(not side)
        if other is not None and side == self._side:
            other = self._tried[not side] = (other[0], other[1] / 2)
        self._tried[side] = (self.now, surplus)
        self._side = side
        if other is None:
            self.now += surplus * self._rate
        else:
            self.now += surplus * (other[0] - self.now) / (surplus - other[1])


class _Process:
    """The decision process in arrays over actions A = (subnet, size), levels J and edges M."""

    def __init__(self, profile: Profile, slo: float, rate: float, slack_steps: int) -> None:
        rows = [
            (subnet, size, (accuracy, below, latency))
            for subnet, accuracy, row in zip(
                profile.subnets, profile.accuracies, profile.latencies, strict=True
            )
            for size, below, latency in zip(
                profile.batch_sizes, (0, *profile.batch_sizes[:-1]), row, strict=True
            )
            # What is late anyway need not be served by more than the smallest.
            if latency <= slo or subnet == profile.smallest
        ]
        self.subnets = [row[0] for row in rows]
        self.sizes = [row[1] for row in rows]
        self.levels = queue_levels(profile.batch_sizes)
        n, size = np.array(self.levels), np.array(self.sizes)[:, None]
        accuracy, below, tau = np.array([row[2] for row in rows]).T[:, :, None]
        even = {slo * step / slack_steps for step in range(slack_steps)}
        self.edges = edges = np.array(sorted({t for t in tau.flat if t < slo} | even | {slo}))

        # The i-th of n is due in m + (slo - m) · i / n; those that are not in time are given up.
        share = np.clip((tau - edges) / np.maximum(slo - edges, 1e-300), 0.0, 1.0)  # [A, M]
        shed = np.ceil(n[:, None] * share[:, None, :] - 1e-9).astype(int)  # [A, J, M]
        able = n[:, None] - shed
        b = size[:, :, None]
        leaves, clears = able > b, (below[:, :, None] < able) & (able <= b)
        self._reward = accuracy[:, :, None] * np.minimum(able, b)
        self._reward[~(leaves | clears | (able == 0))] = -inf

        k = np.arange(self.levels[-1] + 1)
        come = _poisson(rate * tau, k)  # [A, k]: so many arrive during the batch
        # A length between two levels counts as a mixture of them: its mean is kept, for if it were
        # rounded up it would pay to leave queries behind.
        level = np.array([np.interp(k, n, mark) for mark in np.eye(len(n))]).T  # [k, J]
        reach = level[np.minimum(n[:, None] + k, k[-1])]  # [J, k, J]
        self._leave = np.einsum("ak,ikj->aij", come, reach)
        slack = edges + (slo - edges) * (shed + b) / n[:, None] - tau[:, :, None]
        head = np.maximum(np.searchsorted(edges, slack, side="right") - 1, 0)
        left = np.maximum(able - b, 1)
        lower, upper = n.searchsorted(left, side="right") - 1, n.searchsorted(left)
        self._share = np.where(leaves, (left - n[lower]) / np.maximum(n[upper] - n[lower], 1), 0.0)
        # Where `worth` finds the value of the next state.
        row, states = np.arange(len(tau))[:, None, None], leaves.size
        places = ((row * len(n) + at) * len(edges) + head for at in (lower, upper))
        special = np.where(clears, states + row, states + len(tau))
        self._lower, self._upper = (np.where(leaves, place, special) for place in places)

        first = _first_after(tau, rate, edges - (slo - tau), come)
        self._clear = np.einsum("akm,kj->ajm", first, level[1:])
        self._clear[:, 0, -1] += come[:, 0]
        self._seconds = tau[:, :, None] + clears * (come[:, :1, None] / rate)  # [A, J, M]
        self._seconds[able == 0] = 1.0 / rate

    def worth(self, values: Floats, price: float) -> Floats:
        """[A, J, M]: reward, less the price of its time, and ``values`` [J, M] afterwards."""
        actions, levels, _ = self._reward.shape
        left = self._leave.reshape(-1, levels) @ values
        cleared = self._clear.reshape(actions, -1) @ values.ravel()
        found = np.concatenate((left.ravel(), cleared, values[:1, -1]))
        worth: Floats = found[self._lower]
        if self._share.any():
            worth += self._share * (found[self._upper] - worth)
        worth += self._reward
        worth -= price * self._seconds
        return worth


def _poisson(means: Floats, k: npt.NDArray[np.int_]) -> Floats:
    """[A, k]: the probability of each k from 0 up, the last one standing for all above it, too."""
    log_factorial = np.concatenate(([0.0], np.cumsum(np.log(k[1:]))))
    found: Floats = np.exp(k * np.log(means) - means - log_factorial)
    found[:, -1] = 1.0 - np.minimum(found[:, :-1].sum(axis=1), 1.0)
    return found


def _first_after(tau: Floats, rate: float, since: Floats, come: Floats) -> Floats:
    """[A, k, M] for k from 1: the probability that so many come during the batch, the first of them
    between this one of the times ``since`` [A, M] and the next; the first time counts as 0.

    Given that k came, none of them came before t with the probability (1 - t / tau) ** k.
    """
    t = np.clip(since, 0.0, tau)
    t[:, 0] = 0.0
    later = come[:, :, None] * (1.0 - t / tau)[:, None, :] ** np.arange(come.shape[1])[:, None]
    later[:, -1] = np.maximum(np.exp(-rate * t) - later[:, :-1].sum(axis=1), 0.0)
    found: Floats = -np.diff(later[:, 1:], axis=2, append=0.0)
    return found
