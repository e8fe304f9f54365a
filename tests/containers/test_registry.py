"""The registry where MLflow is a server, with its records in PostgreSQL and its files in S3."""

from tests.conftest import make_trips
from tests.parts import free_port
from tripcast.jobs.train import train
from tripcast.registry.registry import Registry
from tripcast.registry.tracking import Tracker
from tripcast.settings import Settings
from tripcast.taxi.pyfunc import flavour


def test_a_model_comes_through_mlflows_server_where_its_object_store_is_out_of_reach(stack, tmp_path, monkeypatch):
    name, model = "out-of-reach", train("linear", make_trips(600, seed=1), taxi="green", data={})
    model.save(tmp_path / "model")
    with Tracker(name, Settings.load()).pipeline_run("training", "training") as run_id:
        registry = Registry(name, Settings.load())
        registry.register(tmp_path / "model", flavour=flavour("green"), run_id=run_id, tags={})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", stack.mlflow.url("localhost"))
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")  # nobody is there
    monkeypatch.setenv("no_proxy", f"localhost:{stack.mlflow.port}")
    registry = Registry(name, Settings.load())

    assert registry.load(registry.version(1)).digest == model.digest
