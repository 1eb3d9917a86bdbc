"""Scheduling policies by name, and the vocabulary that they are written in."""

from collections.abc import Callable, Mapping

from policies.alpaserve import AlpaServe
from policies.clipper import Clipper
from policies.clockwork import Clockwork
from policies.dualfit import DualFit
from policies.fixed import Fixed
from policies.infaas import INFaaS
from policies.loading import resolve, with_options
from policies.maxacc import MaxAcc
from policies.maxbatch import MaxBatch
from policies.model_switching import ModelSwitching
from policies.nexus import EarlyDrop, Nexus
from policies.pacefit import PaceFit
from policies.proteus import Proteus
from policies.ramsis import Ramsis
from policies.slackfit import SlackFit
from policies.symphony import Symphony
from policies.types import Choice, Policy, Profile, QueueView, Wait, Waiting, WorkerView

__all__ = [
    "POLICIES",
    "Choice",
    "Policy",
    "Profile",
    "QueueView",
    "Wait",
    "Waiting",
    "WorkerView",
    "load_policy",
]

POLICIES: dict[str, type] = {
    "default": DualFit,
    "slackfit": SlackFit,
    "dualfit": DualFit,
    "pacefit": PaceFit,
    "maxacc": MaxAcc,
    "maxbatch": MaxBatch,
    "fixed": Fixed,
    "earlydrop": EarlyDrop,
    "infaas": INFaaS,
    "clockwork": Clockwork,
    "nexus": Nexus,
    "clipper": Clipper,
    "symphony": Symphony,
    "alpaserve": AlpaServe,
    "proteus": Proteus,
    "model-switching": ModelSwitching,
    "ramsis": Ramsis,
}


def load_policy(name: str, options: Mapping[str, str] | None = None) -> Callable[[Profile], Policy]:
    """What builds the policy of this name, or of ``package.module:Class``, from a profile.

    ``options`` are the constructor's, as text. Raises ``ValueError`` with a message for the person
    who typed them: an unknown name or option, or a text that is no value of the option's type.
    """
    return with_options(resolve(name, POLICIES), options or {})
