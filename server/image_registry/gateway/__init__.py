"""REST in front of the gRPC server: Envoy's configuration, made from the protos, and Envoy's process."""
