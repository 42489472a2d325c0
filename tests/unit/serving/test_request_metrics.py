"""Labels of metrics are bounded, and the model in use is named once."""

from pathlib import Path

from serving_support import keep, write_node

from lumos_core.serving.newest_model import Newest
from lumos_core.serving.request_metrics import RequestMetrics


def test_paths_and_methods_that_nobody_expects_share_a_label(tmp_path: Path) -> None:
    folder = write_node(tmp_path / "node")
    metrics = RequestMetrics(Newest(folder, folder / "state"))
    for n in range(50):
        metrics.count(f"/{n}", f"M{n}", 404, 0.1)
    text = metrics.text().decode()
    assert 'requests_total{method="other",path="other",status="404"} 50.0' in text
    assert text.count("lumos_serve_requests_total{") == 1
    assert "lumos_serve_model{" not in text


def test_a_swap_leaves_one_model(tmp_path: Path) -> None:
    folder = write_node(tmp_path / "node")
    keep(folder, seed=1)
    newest = Newest(folder, folder / "state")
    metrics = RequestMetrics(newest)
    assert "lumos_serve_model_round 1.0" in metrics.text().decode()
    keep(folder, seed=2)
    newest.look()
    newest.look()
    text = metrics.text().decode()
    assert "lumos_serve_model_round 2.0" in text
    assert text.count("lumos_serve_model{") == 1
    assert "lumos_serve_models_loaded 2.0" in text
