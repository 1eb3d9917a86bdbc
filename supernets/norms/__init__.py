"""SubnetNorm's statistics: per subnet, as tables of the resident form, shared and compressed."""
