"""Building images: this service's layers against container builds of the same libraries on the same base."""
