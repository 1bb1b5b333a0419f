"""The RPC surface: thin handlers, request validation, page tokens, interceptors. No SQL, no decisions."""
