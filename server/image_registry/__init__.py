"""The managed image registry: a service that makes, keeps and finds container images."""
