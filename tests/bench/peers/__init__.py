"""Servers that the benchmarks compare ours with; each is one program that may run in an environment of its own."""
