"""Names of all metrics that a server of selfaug has at /metrics; dashboard and alert rules use no others."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["HISTOGRAMS", "METRICS", "Sample"]

REQUEST_DURATION = "gen_ai_server_request_duration_seconds"
TIME_TO_FIRST_TOKEN = "gen_ai_server_time_to_first_token_seconds"
TIME_PER_OUTPUT_TOKEN = "gen_ai_server_time_per_output_token_seconds"
TOKEN_USAGE = "gen_ai_client_token_usage"

REQUESTS = "selfaug_requests_total"
WAITING = "selfaug_requests_waiting"
RUNNING = "selfaug_requests_running"
READY = "selfaug_ready"
FOLLOWS = "selfaug_follows_champion"

WATCHING = "selfaug_monitor_watching"
PROMPT_DRIFT = "selfaug_prompt_drift_nats"
ALERT_STATE = "selfaug_alert_state"
SIGNAL_STATE = "selfaug_signal_state"
SIGNAL_VALUE = "selfaug_signal_value"
SIGNAL_REFERENCE = "selfaug_signal_reference"
SIGNAL_THRESHOLD_SHARE = "selfaug_signal_threshold_ratio"
OBSERVATIONS = "selfaug_monitor_observations_total"
SCORING_SECONDS = "selfaug_monitor_scoring_seconds_total"
WEBHOOK_MESSAGES = "selfaug_webhook_messages_total"

HISTOGRAMS = (REQUEST_DURATION, TIME_TO_FIRST_TOKEN, TIME_PER_OUTPUT_TOKEN, TOKEN_USAGE, PROMPT_DRIFT)
"""These have the endings _bucket, _sum and _count. The server's labels are those of OpenTelemetry's conventions for
generative AI, with underscores: `gen_ai_request_model`, `gen_ai_operation_name`, `gen_ai_token_type`, `error_type`."""

METRICS: dict[str, str] = {
    REQUEST_DURATION: "Seconds from a request to the end of its answer, or to what ended it, by error_type.",
    TIME_TO_FIRST_TOKEN: "Seconds from a request to the first token of its answer, or to its end in vain.",
    TIME_PER_OUTPUT_TOKEN: "Seconds an output token, after the first.",
    TOKEN_USAGE: "Tokens of a request, by gen_ai_token_type: input or output.",
    REQUESTS: "Requests answered, by path and status.",
    WAITING: "Requests that have not begun.",
    RUNNING: "Requests that are being answered.",
    READY: "1 if the server answers as the record says it should.",
    FOLLOWS: "0 while the registry's champion can't be served, else 1: also where no registry is followed.",
    WATCHING: "1 if the traffic is watched, 0 while there is no monitor: it could not be opened, or not yet.",
    PROMPT_DRIFT: "Drift of sampled prompts, nats per prompt token.",
    ALERT_STATE: "1 for the state that the monitor is in, by state; 0 for the others.",
    SIGNAL_STATE: "1 for the state that a signal is in, by signal and state; 0 for the others.",
    SIGNAL_VALUE: "Mean of a signal's last 100 values, by signal.",
    SIGNAL_REFERENCE: "What a signal is compared with, by signal.",
    SIGNAL_THRESHOLD_SHARE: "A detector's statistic over its threshold, by signal; at 1 it alarms.",
    OBSERVATIONS: "Requests and votes by adapter and outcome: offered, dropped, processed, lost, scored, thinned.",
    SCORING_SECONDS: "Seconds that drift was computed for.",
    WEBHOOK_MESSAGES: "Messages to the webhook, by outcome: sent, or failed after all attempts.",
}
"""Name and meaning."""


class Sample(NamedTuple):
    """One number for Prometheus: a name of these, with the ending of a histogram's part, and labels."""

    name: str
    labels: dict[str, str]
    value: float
