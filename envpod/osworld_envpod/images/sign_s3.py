"""Signs the address of an object in S3. Run by the task worker's interpreter, which has the AWS library.

Reads ``{"bucket", "key", "region", "life_s"}`` from standard input and writes ``{"url"}`` or ``{"error"}``. Imports
nothing of ours. Credentials, profile and endpoint are the library's own matter: environment, files, the instance's or
pod's role. Without any, the address is not signed: public buckets need none.
"""

import json
import sys

import boto3  # type: ignore[import-not-found]  # lives in the worker's environment only
from botocore import UNSIGNED  # type: ignore[import-not-found]
from botocore.config import Config  # type: ignore[import-not-found]
from botocore.exceptions import BotoCoreError  # type: ignore[import-not-found]


def main() -> None:
    """Sign one address."""
    asked = json.load(sys.stdin)
    try:
        session = boto3.Session(region_name=asked["region"])
        version = UNSIGNED if session.get_credentials() is None else "s3v4"
        client = session.client("s3", config=Config(signature_version=version))
        place = {"Bucket": asked["bucket"], "Key": asked["key"]}
        url = client.generate_presigned_url("get_object", Params=place, ExpiresIn=asked["life_s"])
        answer = {"url": url}
    except BotoCoreError as error:
        answer = {"error": str(error)[:500]}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
