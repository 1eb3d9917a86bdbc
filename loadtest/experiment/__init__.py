"""Policies against each other on the real server: the same loads live and in simulation."""
