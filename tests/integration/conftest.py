"""One home for the flow tests: a tiny corpus and a tiny encoder are made once and looked at many times."""

from pathlib import Path

import pytest
from ground import STEPS, make_ground

from pipelines.settings import Home


@pytest.fixture(scope="session")
def spec_path(tmp_path_factory) -> Path:
    """The spec of a corpus over a few raster files."""
    return make_ground(tmp_path_factory.mktemp("ground"))


@pytest.fixture(scope="session")
def home(tmp_path_factory) -> Home:
    """A home that the tests of a session share."""
    return Home.at(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def curated(spec_path, home, local_prefect, local_ray) -> str:
    """`tiny@1`, made by the flow."""
    from pipelines.curate import curate

    return curate(str(spec_path), (), str(home.root))


@pytest.fixture(scope="session")
def pretrained(curated, home) -> str:
    """`mae.smoke@1`, made by the flow on the tiny corpus in six steps."""
    from pipelines.pretrain import pretrain

    return pretrain("mae.smoke", STEPS, str(home.root), curated)
