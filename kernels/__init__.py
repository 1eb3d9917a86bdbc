"""The arena and the ops that run any subnet from it; imported by name, nothing is loaded here."""
