"""Why a worker's request to the engine is not carried out."""

from contracts.errors import JetcrewError


class Refusal(JetcrewError):
    """Told to the worker as the engine tells an error; the docker command line prints it."""

    def __init__(self, message: str, status: int = 403) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


def absent(what: str, ref: str) -> Refusal:
    """The same for what does not exist and for what belongs to somebody else."""
    return Refusal(f"No such {what}: {ref}", 404)
