"""What the processes say about themselves: fields of log lines, metrics, traces.

`fields`, `metrics` and `tracing` are what the rest of the code calls; they cost a look at a variable while nothing is
configured. `prometheus` and `otel` are where it goes, imported when they are configured: `running` starts them.
"""
