"""What all routes of one server share: the dispatcher, the settings, and who is in."""

from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import FastAPI

from policies.types import Profile
from superserve.config import Config
from superserve.server.bodies import Bodies
from superserve.server.decoders import Decoders
from superserve.server.dispatcher_like import DispatcherLike
from superserve.server.in_flight import InFlight


@dataclass(frozen=True, slots=True)
class FrontEnd:
    """``profiles`` maps the name of each model to the accuracy and latency of its subnets."""

    dispatcher: DispatcherLike
    config: Config
    profiles: Mapping[str, Profile]
    in_flight: InFlight
    bodies: Bodies
    decoders: Decoders

    @classmethod
    def of(cls, app: FastAPI) -> "FrontEnd":
        front_end: FrontEnd = app.state.front_end
        return front_end

    def not_ready_reason(self) -> str | None:
        """Why new requests should go elsewhere; None if they are welcome."""
        if self.in_flight.draining:
            return "the server is shutting down"
        if not self.dispatcher.ready:
            return "no worker is ready yet"
        return None
