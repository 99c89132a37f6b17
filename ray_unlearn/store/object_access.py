"""Access to an object store: server, credentials and retries."""

import configparser
import importlib.util
import os
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

CONNECT_S = 10.0
ANSWER_S = 30.0
"""Seconds without an answer after which a connection is dropped and the request made again."""
RETRIES = 1000
"""More than fit in any patience, which ends the retries."""
FIRST_PAUSE = timedelta(milliseconds=200)
LONGEST_PAUSE = timedelta(seconds=15)


def object_store_at(url: str, patience: timedelta) -> Any:
    """obstore's store below an address, without any request over the network.

    Args:
        url: address of the study (see `storage.checked_url`).
        patience: how long a request is made again that fails for a reason that may pass.
    """
    from obstore.store import from_url

    parts = urlsplit(url)
    settings: dict[str, Any] = {
        "client_options": {
            "timeout": f"{ANSWER_S:.0f}s",
            "connect_timeout": f"{CONNECT_S:.0f}s",
            "allow_http": True,
        },
        "retry_config": {
            "max_retries": RETRIES,
            "retry_timeout": patience,
            "backoff": {"init_backoff": FIRST_PAUSE, "max_backoff": LONGEST_PAUSE, "base": 2},
        },
    }
    if parts.scheme == "s3":
        settings |= _s3_settings(dict(parse_qsl(parts.query)))
    if parts.username == "anonymous":
        settings["skip_signature"] = True
    account = parts.netloc if parts.scheme.startswith("abfs") else parts.netloc.rpartition("@")[2]
    return from_url(f"{parts.scheme}://{account}{parts.path}", **settings)


def _s3_server(options: dict[str, str]) -> tuple[str | None, str | None]:
    """Address and region of the S3 server, from a study address's options or the environment.

    Returns:
        None as the address of Amazon's own server, and as a region that is not named.
    """
    environment = os.environ.get
    endpoint = (
        options.get("endpoint_override")
        or environment("AWS_ENDPOINT_URL_S3")
        or environment("AWS_ENDPOINT_URL")
    )
    region = options.get("region") or environment("AWS_REGION") or environment("AWS_DEFAULT_REGION")
    if endpoint:
        scheme, separator, host = endpoint.partition("://")
        scheme = options.get("scheme") or (scheme if separator else "https")
        endpoint = f"{scheme}://{host if separator else endpoint}"
    return endpoint, region or ("us-east-1" if endpoint else None)


def _s3_settings(options: dict[str, str]) -> dict[str, Any]:
    endpoint, region = _s3_server(options)
    settings: dict[str, Any] = {"region": region} if region else {}
    if endpoint:
        settings["endpoint"] = endpoint
    if not os.environ.get("AWS_ACCESS_KEY_ID"):
        settings |= _profile_credentials()
    return settings


def _profile_credentials() -> dict[str, Any]:
    """Keys of the AWS profile, which obstore does not read by itself.

    Plain keys are read from the credentials file; boto3, if it is installed, reads every other kind
    of profile. If the result is empty, obstore uses the machine's identity.
    """
    path = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")).expanduser()
    parser = configparser.RawConfigParser()
    parser.read(path)
    profile = os.environ.get("AWS_PROFILE", "default")
    if parser.has_option(profile, "aws_access_key_id"):
        names = {
            "access_key_id": "aws_access_key_id",
            "secret_access_key": "aws_secret_access_key",
            "session_token": "aws_session_token",
        }
        found = {name: parser.get(profile, key, fallback="") for name, key in names.items()}
        return {name: value for name, value in found.items() if value}
    if "AWS_PROFILE" in os.environ and importlib.util.find_spec("boto3"):
        from obstore.auth.boto3 import Boto3CredentialProvider

        return {"credential_provider": Boto3CredentialProvider()}
    return {}
