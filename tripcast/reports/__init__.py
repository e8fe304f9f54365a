"""Reports for people: one HTML page each, and a few lines of Markdown for where there is no room for a page."""

from tripcast.reports.model_card import Way, model_card
from tripcast.reports.monitoring import (
    JoinCounts,
    Judgement,
    MonitoringContext,
    monitoring_report,
    monitoring_summary,
)
from tripcast.reports.replay import Event, Replay, ReplayMonth, replay_page
from tripcast.reports.training import TrainingContext, training_report, training_summary

__all__ = [
    "Event",
    "JoinCounts",
    "Judgement",
    "MonitoringContext",
    "Replay",
    "ReplayMonth",
    "TrainingContext",
    "Way",
    "model_card",
    "monitoring_report",
    "monitoring_summary",
    "replay_page",
    "training_report",
    "training_summary",
]
