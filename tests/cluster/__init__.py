"""A local Kubernetes cluster by kind, from an image registry or, where none can be reached, from package registries."""
