"""The RPC surface: thin handlers, request validation, page tokens, what is around every call. No SQL, no decisions."""
