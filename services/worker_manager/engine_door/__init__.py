"""A checked part of the container engine for workers with the capability `docker-cli`.

Each gets a unix socket that speaks the Docker Engine API. One connection carries one request. What it asks
is parsed, checked against lists of what is allowed, and written anew: nothing of what a worker sent reaches
the engine unread, but for the bytes of its own containers' streams and archives. Everything made through
the door carries the worker's labels, and nothing without them can be named.
"""
