"""What a wrapper spares itself; imported before anything else is.

structlog loads rich wherever it finds it, to print tracebacks in colours, which is a quarter of a wrapper's
start and five megabytes of it. A wrapper writes JSON.
"""

import sys

sys.modules.setdefault("rich", None)  # type: ignore[arg-type]  # Python's own way to say: not to be found
