"""The image that all tests of containers use."""

import os

import pytest
from compose_support import IMAGE, Project, docker


@pytest.fixture(scope="session")
def image() -> str:
    """Id of the image, built from this checkout."""
    if not docker("version", "--format", "{{.Server.Version}}", check=False).strip():
        pytest.fail("no Docker engine answers; make test-docker starts one where it can")
    # by the name that users build it with, as compose writes the project's name into the image
    Project("lumos", "compose.yml")("build")
    return docker("image", "inspect", "--format", "{{.Id}}", IMAGE).strip()


@pytest.fixture(scope="session")
def prefix() -> str:
    """Begins the names of the tests' projects."""
    return f"lumos-test-{os.getpid()}"
