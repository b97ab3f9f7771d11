"""Settings of the HTTP API, read once from the environment."""

from typing import Annotated

from pydantic import BaseModel, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from services.kit.settings import ProcessSettings


class HttpSettings(BaseModel, frozen=True):
    """Where the API listens, and who gets in."""

    host: str = "127.0.0.1"
    """Name or address to listen on; one that other hosts can reach needs a token."""
    port: Annotated[int, Field(ge=0, le=65_535)] = 0
    """TCP port; 0 takes a free one, which `api.json` in the state directory tells."""
    token: Annotated[SecretStr, Field(min_length=16)] | None = None
    """At least 16 characters that every request has to bring (`Authorization: Bearer …`)."""


class ApiSettings(ProcessSettings):
    """All settings of this process."""

    model_config = SettingsConfigDict(env_ignore_empty=True)

    api: HttpSettings = HttpSettings()
