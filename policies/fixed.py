"""Fixed, one subnet for all queries: what a server without a supernet does (Clipper+)."""

from typing import Literal

from policies.types import Choice, Profile, QueueView


class Fixed:
    """One subnet; the batch is the largest profiled one that the queue fills and that finishes
    within the slack of the head (Clipper+ of the SuperServe paper, section 6.1).

    ``subnet`` is ``"smallest"``, ``"largest"``, an id of the profile, or a rank from 1, the least
    accurate. ``drop`` says what becomes of a head that this subnet cannot serve in time, although
    another one still could:

    - ``"none"``: it is served late, alone, so that it makes nobody else late;
    - ``"lazy"``: it is shed;
    - ``"early"``: as many heads are shed as keep the batch from being as large as the queue would
      fill. Nexus (SOSP'19) does so, because a batch that shrinks to what the most urgent query
      needs loses the throughput that would have saved the others.
    """

    def __init__(
        self,
        profile: Profile,
        subnet: str | int = "largest",
        drop: Literal["none", "lazy", "early"] = "none",
    ) -> None:
        if drop not in {"none", "lazy", "early"}:
            raise ValueError(f"drop must be none, lazy or early, not {drop!r}")
        self._profile = profile
        self._subnet = find_subnet(profile, str(subnet))
        self._drop = drop
        self._latency = {size: profile.latency(self._subnet, size) for size in profile.batch_sizes}

    def __repr__(self) -> str:
        return f"Fixed(subnet={self._subnet!r}, drop={self._drop!r})"

    def choose(self, view: QueueView, now: float) -> Choice | None:
        """O(batch sizes), and O(heads shed)."""
        if not view.waiting:
            return None
        shed = self._hopeless(view, now) if self._drop != "none" else 0
        left = len(view) - shed
        if not left:
            return Choice(self._subnet, 1, shed)
        slack = view.waiting[shed].deadline - now
        most = self._profile.batch_bucket(left)
        fitting = [b for b, latency in self._latency.items() if b <= most and latency <= slack]
        return Choice(self._subnet, fitting[-1] if fitting else 1, shed)

    def _hopeless(self, view: QueueView, now: float) -> int:
        """How many heads are in the way."""
        early = self._drop == "early"
        smallest, waiting = self._profile.batch_sizes[0], len(view)
        for ahead, query in enumerate(view.waiting):
            size = self._profile.batch_bucket(waiting - ahead) if early else smallest
            if self._latency[size] <= query.deadline - now:
                return ahead
        return waiting


def find_subnet(profile: Profile, subnet: str) -> str:
    if subnet in profile.subnets:
        return subnet
    if subnet in {"smallest", "largest"}:
        return profile.smallest if subnet == "smallest" else profile.largest
    if subnet.isdecimal() and 1 <= int(subnet) <= len(profile.subnets):
        return profile.subnets[int(subnet) - 1]
    raise ValueError(
        f"no subnet {subnet!r}: give smallest, largest, a rank from 1 to {len(profile.subnets)} "
        f"or one of {', '.join(profile.subnets)}"
    )
