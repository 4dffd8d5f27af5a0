"""Serves the API over HTTP: limits on connections and requests, and the end of the process."""
