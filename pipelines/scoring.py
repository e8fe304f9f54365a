"""The scoring pipeline: months in, predictions of their trips out."""

from kfp import dsl

from components.ingest import ingest
from components.plan_scoring import plan_scoring
from components.score import score
from components.specify import specify
from pipelines.policy import PARALLELISM, RUN, apply_policy


@dsl.pipeline(name="scoring", pipeline_config=RUN)
def scoring(source: str = "tlc", taxi: str = "green", months: str = "2021-03", model: str = "champion") -> None:
    """Predict the trips of whole months with a registered model, and keep the predictions as partitioned parquet.

    Args:
        source: Where months come from: `tlc` (the publisher), `s3://bucket/prefix`, a folder or `simulated`.
        taxi: Whose trips: `green`, `yellow`, `fhvhv` or `fhv`.
        months: Months to score, for example `2021-01..2021-03`.
        model: The version of the registered model: its number, or an alias: `champion`, `challenger`, `previous`.
    """
    planned = plan_scoring(source=source, taxi=taxi, months=months, model=model)
    specified = specify(taxi=taxi).after(planned)
    with dsl.ParallelFor(planned.output, name="months", parallelism=PARALLELISM) as item:
        ingested = ingest(
            source=source,
            taxi=taxi,
            month=item.month,
            revision=item.revision,
            rules=specified.outputs["rules"],
        )
        scored = score(taxi=taxi, version=item.version, month=item.month, records=ingested.outputs["records"])
    apply_policy(planned, specified, ingested, scored)
