"""Offline catalog processing: a shop's table in, the same table with answers out."""
