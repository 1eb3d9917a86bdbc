"""Upper bounds on what any policy can reach, for comparison with what policies do reach."""

from policies.bounds.exhaustive import Batch, Optimum, exhaustive_optimum
from policies.bounds.fluid import Fluid, fluid_bound
from policies.bounds.price import Bound, price_bound
from policies.bounds.prices import Prices
from policies.bounds.problem import Problem, Workers, problem
from policies.bounds.zilp import Zilp, zilp_bound

__all__ = [
    "Batch",
    "Bound",
    "Fluid",
    "Optimum",
    "Prices",
    "Problem",
    "Workers",
    "Zilp",
    "exhaustive_optimum",
    "fluid_bound",
    "price_bound",
    "problem",
    "zilp_bound",
]
