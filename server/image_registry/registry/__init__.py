"""The use cases. Each public method is one thing that a caller wants done, and opens its own transaction.

Locks are taken in one order everywhere: the platform's tag before images, a base image before the images built on it,
an image before its job.
"""
