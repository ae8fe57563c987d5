"""A run on pods, from a cell of JupyterLab to the trained model."""

from __future__ import annotations

import re

import pytest
import yaml
from playwright.sync_api import expect

from .. import cluster as test_cluster
from ..docker_image import base_image
from .person import seated
from .test_lab import SETUP, TRAIN

pytestmark = [pytest.mark.browser, pytest.mark.cluster]

CONFIG = """\
backend = "kubernetes"
namespace = "{namespace}"
image = "{image}"
cpu = 0.5
memory = "1200MiB"
storage = "1GiB"
"""


@pytest.fixture
def lab(namespace, tmp_path, monkeypatch, serve):
    """Start JupyterLab for a user of the cluster."""
    monkeypatch.setenv("KUBECONFIG", str(test_cluster.kubeconfig("user")))
    image = test_cluster.push(base_image())
    with serve(tmp_path / "notebooks", tmp_path / "home") as server:
        config = server.log.with_name("nbtrain.toml")
        config.write_text(CONFIG.format(namespace=namespace, image=image))
        yield server


def test_a_cell_trains_on_pods_and_the_run_is_exported_and_deleted(lab, browser):
    with seated(browser, lab) as person:
        page = person.page
        # What an exported run takes along has to fit into a Secret.
        setup, train = SETUP.replace("20_000", "2_000"), TRAIN.replace("16_000", "1_600")
        person.write("pods.ipynb", setup, train.format(epochs=2), "sums.model.count_params()")
        person.open("pods.ipynb")
        person.run(0)
        person.run(1)
        view = person.view(1)
        expect(view.locator(".nbt-title")).to_contain_text("epoch", timeout=180_000)
        expect(view.locator(".nbt-worker").first).to_have_attribute("title", re.compile("on "))
        expect(view.locator(".nbt-title")).to_contain_text("trained", timeout=120_000)
        person.run(2)
        expect(person.cell(2).locator(".jp-OutputArea-output")).to_contain_text("321")

        row = person.sidebar().locator(".nbt-run")
        expect(row).to_contain_text("kubernetes")
        row.click(button="right")
        with page.expect_download() as download:
            page.get_by_role("menuitem", name="Export YAML").click()
        objects = list(yaml.safe_load_all(download.value.path().read_text()))
        assert {"Secret", "Service", "Job"} <= {one["kind"] for one in objects}
        row.click(button="right")
        page.get_by_role("menuitem", name="Delete…").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        expect(row).to_have_count(0)
