"""What is measured, a file for each call. Each suite takes a `Bench` and adds to its report."""
