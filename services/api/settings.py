"""Settings of the HTTP API, read once from the environment."""

from typing import Annotated

from pydantic import BaseModel, Field, SecretStr, ValidationError
from pydantic_settings import SettingsConfigDict

from contracts.errors import ConfigurationInvalid
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


def load() -> ApiSettings:
    """The settings that the environment holds.

    Raises:
        ConfigurationInvalid: one of them is wrong; names the variable.
    """
    try:
        return ApiSettings()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        variable = "JETCREW_" + "__".join(str(part) for part in first["loc"]).upper()
        raise ConfigurationInvalid(f"{variable}: {first['msg']}") from None
