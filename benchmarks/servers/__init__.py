"""Servers that are no part of the product: bounds and variants, each started as a process of its own."""
