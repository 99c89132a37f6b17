"""Creation of an object only if it is absent, the one write that the store itself has to decide.

pyarrow's filesystems cannot write "only if absent", so this request goes through obstore (PUT with
`If-None-Match: *` on S3, the same by other names on Google Cloud Storage and Azure), to the same
server and with the same credentials.
"""

import configparser
import importlib.util
import os
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

CONNECT_S = 10.0
ATTEMPTS = 3


def create_object(url: str, name: str, content: bytes, answer_s: float) -> bool:
    """Make an object unless there is one of that name.

    Args:
        url: address of the study (see `storage.checked_url`).
        name: name of the object, below the study.
        content: content of the object.
        answer_s: seconds without an answer after which a request is given up.

    Returns:
        Whether it was made.

    Raises:
        OSError: the store fails, or cannot create objects only if they are absent.
    """
    import obstore
    from obstore.exceptions import AlreadyExistsError, BaseError

    try:
        obstore.put(_store(url, answer_s), name, content, mode="create", use_multipart=False)
    except AlreadyExistsError:
        return False
    except (BaseError, NotImplementedError) as error:
        raise OSError(str(error).partition("\n\nDebug source")[0]) from None
    return True


def s3_server(options: dict[str, str]) -> tuple[str | None, str | None]:
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


def _store(url: str, answer_s: float) -> Any:
    from obstore.store import from_url

    parts = urlsplit(url)
    settings: dict[str, Any] = {
        "client_options": {
            "timeout": f"{answer_s:.0f}s",
            "connect_timeout": f"{CONNECT_S:.0f}s",
            "allow_http": True,
        },
        "retry_config": {"max_retries": ATTEMPTS, "retry_timeout": timedelta(seconds=answer_s)},
    }
    if parts.scheme == "s3":
        settings |= _s3_settings(dict(parse_qsl(parts.query)))
    if parts.username == "anonymous":
        settings["skip_signature"] = True
    account = parts.netloc if parts.scheme.startswith("abfs") else parts.netloc.rpartition("@")[2]
    return from_url(f"{parts.scheme}://{account}{parts.path}", **settings)


def _s3_settings(options: dict[str, str]) -> dict[str, Any]:
    endpoint, region = s3_server(options)
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
