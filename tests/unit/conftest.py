"""Stores that several test modules share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import find_moto, new_bucket, s3_server, variables


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Give the URL of an S3 server; skip where there is none."""
    moto = find_moto()
    if moto is None and os.environ.get("CI") == "true":
        pytest.fail("there is no S3 server (pip install 'moto[server]')")
    if moto is None:
        pytest.skip("there is no S3 server (pip install 'moto[server]')")
    with s3_server(moto) as endpoint:
        yield endpoint


@pytest.fixture
def s3_store_url(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give an empty store in a bucket."""
    for name, value in variables(s3_endpoint).items():
        monkeypatch.setenv(name, value)
    return f"s3://{new_bucket(s3_endpoint)}/prefix"


@pytest.fixture(params=["directory", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give an empty store of each kind."""
    if request.param == "directory":
        return str(tmp_path / "store")
    url: str = request.getfixturevalue("s3_store_url")
    return url
