"""HTTP only: routes by resource, keys, limits, errors, server-sent events."""
