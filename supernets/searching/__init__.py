"""Which subnets are worth serving: the front over latency and accuracy, measured or predicted."""
