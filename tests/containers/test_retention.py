"""Retention where MLflow is a server, with its records in PostgreSQL and its files in S3."""

from mlflow import MlflowClient

from tests.unit.test_prune import MODEL, Place, fill
from tripcast.settings import Settings


def test_what_is_old_goes_through_mlflows_server_and_its_files_from_s3(stack, tmp_path):
    client = MlflowClient(stack.mlflow.url())
    for model in client.search_registered_models():
        client.delete_registered_model(model.name)
    for experiment in client.search_experiments(filter_string=f"name = '{MODEL}'"):
        client.rename_experiment(experiment.experiment_id, f"of other tests {experiment.experiment_id}")
    place = Place(Settings.load())
    fill(place, tmp_path)
    models = {version.source.rpartition("/")[2] for version in client.search_model_versions(f"name = '{MODEL}'")}

    place.prune()

    place.check_that_the_rest_is_gone()
    place.check_that_all_can_serve()
    assert not place.plan().going
    left = {key.split("/")[2] for key in stack.store.objects("mlflow") if "/models/" in key}
    assert (len(models), len(left & models)) == (7, 5)
