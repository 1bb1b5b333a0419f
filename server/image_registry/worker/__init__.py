"""Takes jobs from the queue and carries them out: `loop` keeps leases, `execution` does the work of one job."""
