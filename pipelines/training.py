"""The training pipeline: months in, a judged and registered model out."""

from kfp import dsl

from components.deploy import deploy
from components.evaluate import evaluate
from components.ingest import ingest
from components.plan import plan
from components.register import register
from components.specify import specify
from components.train import train
from components.validate import validate
from pipelines.policy import PARALLELISM, RUN, apply_policy


@dsl.pipeline(name="training", pipeline_config=RUN)
def training(
    source: str = "tlc",
    taxi: str = "green",
    train_months: str = "2021-01..2021-02",
    test_month: str = "2021-03",
    candidates: list[str] = ["linear", "lightgbm"],  # noqa: B006 (kfp reads it as a default, and copies it)
    trials: int = 20,
    rollout: float = 1.0,
    trial_rollout: float = 0.0,
    proven_gain: float = 0.0,
    refit: bool = False,
    canary_minutes: float = 0.0,
    approval: bool = False,
    workers: int = 1,
) -> None:
    """Train candidates on months of taxi trips, judge them on a later month beside the champion, let the winner serve.

    Args:
        source: Where months come from: `tlc` (the publisher), `s3://bucket/prefix`, a folder or `simulated`.
        taxi: Whose trips: `green`, `yellow`, `fhvhv` or `fhv`.
        train_months: Months to train on, for example `2021-01..2021-02`.
        test_month: The later month to judge on.
        candidates: Which models to train: `linear`, `lightgbm`, `tuned`.
        trials: How many parameter sets `tuned` tries.
        rollout: Share of the riders that the winner answers, 0 to 1: 1 makes it the champion, less the challenger.
        trial_rollout: The same, of a winner whose gain may be chance; 0 refuses it.
        proven_gain: The reduction of RMSE that has to be proven, as a share of the champion's, 0 to 1.
        refit: Whether the winner learns from the test month, too, before it serves.
        canary_minutes: How long a new champion answers a few riders first, while the service's health is watched.
        approval: Whether a winner waits for a person before it serves: `tripcast approve`, or `tripcast reject`.
        workers: How many pods, or processes of this machine, train a candidate together.
    """
    # Every step that takes a list also takes an artifact that the list was made from, or Kubeflow's launcher does not
    # find what of the list comes from another run's cache (docs/architecture.md). For the months that is the rules.
    planned = plan(source=source, taxi=taxi, train=train_months, test=test_month, candidates=candidates)
    specified = specify(taxi=taxi).after(planned)
    rules = specified.outputs["rules"]
    with dsl.ParallelFor(planned.output, name="months", parallelism=PARALLELISM) as item:
        ingested = ingest(source=source, taxi=taxi, month=item.month, revision=item.revision, rules=rules)
    validated = validate(months=dsl.Collected(ingested.outputs["records"]), rules=rules, test=test_month)
    with dsl.ParallelFor(candidates, name="candidates", parallelism=PARALLELISM) as candidate:
        trained = train(
            candidate=candidate, taxi=taxi, trials=trials, workers=workers, trips=validated.outputs["train_trips"]
        )
    evaluated = evaluate(
        taxi=taxi,
        pipeline_run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        models=dsl.Collected(trained.outputs["model"]),
        train_trips=validated.outputs["train_trips"],
        test_trips=validated.outputs["test_trips"],
        proven_gain=proven_gain,
        trial_share=trial_rollout,
        refit=refit,
        approval=approval,
    )
    with dsl.If(evaluated.outputs["Output"] == True, name="promoted"):  # noqa: E712 (kfp builds the condition from it)
        registered = register(taxi=taxi, winner=evaluated.outputs["winner"])
        deployed = deploy(
            taxi=taxi,
            version=registered.output,
            decision=evaluated.outputs["decision"],
            share=rollout,
            trial_share=trial_rollout,
            canary_minutes=canary_minutes,
        )
    apply_policy(planned, specified, ingested, validated, trained, evaluated, registered, deployed)
