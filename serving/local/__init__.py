"""The whole job on one machine: the pipeline, and the servers around its champion."""
